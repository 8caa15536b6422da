"""The page in Gradio: fields, buttons and tabs around the answers of [`PageLogic`]."""

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adversarial_mlm.inference.reads import Progress
from adversarial_mlm.space.logic import PageLogic
from adversarial_mlm.space.networks import NetworkStore
from adversarial_mlm.space.pasted import EXAMPLES
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.extras import require

if TYPE_CHECKING:
    from gradio import Blocks

TITLE = "What does a noiser attack?"
LOCAL = "127.0.0.1"
"""The only address at which `adv-mlm demo` listens: no other machine can reach it."""

_INTRODUCTION = (
    "A masked language model learns by predicting hidden residues of proteins. Here a second network, the *noiser*, "
    "chooses some of them, so that they are hard for the first one, the *encoder*. Paste a protein, and see which "
    "residues it attacks."
)
_FOLDER = Path(__file__).parent
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # the page is for people, and has no public interface
_QUICK: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
# an event that Gradio defers loses its data, so clicks are answered one after the other
_EVERY_CLICK: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", "concurrency_limit": 1}


def build_page(store: NetworkStore) -> "Blocks":
    """Build the page.

    Args:
        store ([`NetworkStore`]): The models; with `only_default` the page has no field for another one.

    Returns:
        `gradio.Blocks`: For [`launch`].

    Raises:
        MissingPackageError: If Gradio or matplotlib is not installed.
        CheckpointError: If the default model cannot be loaded.
    """
    check_installed()
    import gradio

    store.load()
    logic = PageLogic(store)
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\n\n{_INTRODUCTION}")
        model = gradio.Textbox(
            store.default,
            label="Model",
            info="A folder with a checkpoint, or a name on the Hub",
            max_lines=1,
            visible=not store.only_default,
            elem_id="model",
        )
        facts = gradio.HTML(logic.describe(store.default), apply_default_css=False, elem_id="facts")
        protein = gradio.Textbox(
            label="Protein",
            info="In one-letter code, also with a FASTA header. The demo's model knows proteins like the examples.",
            placeholder="MKTAYIAKQRQISFVKSHFSRQ",
            lines=3,
            max_lines=8,
            elem_id="protein",
        )
        with gradio.Row():
            for example in EXAMPLES:
                button = gradio.Button(f"Example: {example.name}", size="sm", min_width=120)
                # in the browser: a person may go on at once
                button.click(None, None, protein, js=f"() => '{example.sequence}'")
        model.submit(logic.describe, model, facts, **_PRIVATE)
        model.blur(logic.describe, model, facts, show_progress="hidden", **_PRIVATE)
        with gradio.Tab("Attacks"):
            _add_masks(logic, model, protein)
        with gradio.Tab("Compare"):
            _add_comparison(logic, model, protein)
        with gradio.Tab("Substitutions"):
            _add_substitutions(logic, model, protein)
    return page


def check_installed() -> None:
    """Check that the packages of the page are installed, and keep Gradio from counting who uses it.

    Raises:
        MissingPackageError: If Gradio or matplotlib is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while Gradio is imported
    for package in ("gradio", "matplotlib"):
        require(package, "demo", "the page of adv-mlm demo")


def _add_masks(logic: PageLogic, model: Any, protein: Any) -> None:
    """Add the first tab: the coloured protein, and the answers where a person masks residues."""
    import gradio

    start = gradio.Button("Show the noiser's masks", variant="primary", elem_id="show")
    track = gradio.HTML(
        "",
        js_on_load=(_FOLDER / "track.js").read_text(),
        masked={},
        answered=0,
        apply_default_css=False,
        elem_id="track",
    )
    positions = gradio.Textbox(
        label="Residues that you mask",
        info="Choose them above, or write positions such as 3, 10-15, and press Enter",
        max_lines=1,
        elem_id="positions",
    )
    clear = gradio.Button("Show all again", size="sm", elem_id="clear")
    answers = gradio.HTML("", apply_default_css=False, elem_id="answers")
    shown = gradio.State(None)
    newest = gradio.State(0)  # number of the last click that was answered
    answer = itertools.count()

    def show(name: str, text: str, bar: Any = gradio.Progress()) -> tuple:  # noqa: B008
        html, found = logic.show(name, text, _progress(bar))
        return gradio.HTML(value=html), found, "", logic.mask(found, []) if found else ""

    def write(found: Any, text: str) -> tuple:
        words, html, masked = logic.mask_written(found, text)
        return words, html, gradio.HTML(masked={"answer": next(answer), "positions": masked})

    def choose(found: Any, newest: int, event: gradio.EventData) -> tuple:
        number = _sent(event, "number")
        if type(number) is not int or number < newest:
            return gradio.skip(), gradio.skip(), gradio.skip(), newest
        return (*logic.mask_chosen(found, _sent(event, "positions")), gradio.HTML(answered=number), number)

    def clear_all(found: Any) -> tuple:
        return write(found, "")

    start.click(show, [model, protein], [track, shown, positions, answers], show_progress_on=track, **_PRIVATE)
    track.choose(choose, [shown, newest], [positions, answers, track, newest], **_EVERY_CLICK, **_PRIVATE)
    positions.submit(write, [shown, positions], [positions, answers, track], **_QUICK, **_PRIVATE)
    clear.click(clear_all, shown, [positions, answers, track], **_QUICK, **_PRIVATE)


def _add_comparison(logic: PageLogic, model: Any, protein: Any) -> None:
    """Add the second tab: random and learned masks on the same protein."""
    import gradio

    seed = gradio.Number(0, label="Seed", info="Another seed draws other masks", precision=0, elem_id="seed")
    start = gradio.Button("Compare random with learned masks", variant="primary", elem_id="compare")
    comparison = gradio.HTML("", apply_default_css=False, elem_id="comparison")
    start.click(logic.compare, [model, protein, seed], comparison, **_PRIVATE)


def _add_substitutions(logic: PageLogic, model: Any, protein: Any) -> None:
    """Add the third tab: the heat map of all substitutions, and its table."""
    import gradio

    start = gradio.Button("Score all substitutions", variant="primary", elem_id="score")
    heat_map = gradio.HTML("", apply_default_css=False, elem_id="substitutions")

    def score(name: str, text: str, bar: Any = gradio.Progress()) -> str:  # noqa: B008
        return logic.substitutions(name, text, _progress(bar))

    start.click(score, [model, protein], heat_map, **_PRIVATE)


def _sent(event: Any, name: str) -> Any:
    """Return a value that came with an event of the browser, of any type; `None` if there is none."""
    try:
        return getattr(event, name)
    except (AttributeError, TypeError):  # the latter where the event is no mapping
        return None


def _progress(bar: Any) -> Progress:
    """Return a function that moves a bar of Gradio."""
    return lambda done, total: bar((done, total), desc="The encoder reads", unit="positions")


def launch(page: "Blocks", *, port: int | None = None, host: str | None = LOCAL, open_browser: bool = False) -> str:
    """Start the page in a thread, without a public link.

    Args:
        page (`gradio.Blocks`): The page, from [`build_page`]; `page.close()` stops it.
        port (`int`, *optional*): By default the first free one from 7860 on.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Where to listen; with `None`, Gradio's environment
            variables decide, as a Space of the Hub needs it.
        open_browser (`bool`, defaults to `False`): Whether to open a browser.

    Returns:
        `str`: The address of the page.

    Raises:
        RecipeError: If the port is not free.
    """
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            css_paths=_FOLDER / "page.css",
            theme=_theme(),
        )
    except OSError as error:
        raise RecipeError(
            f"--port is {port}, which cannot be used: choose another one, or leave it out"
            if port
            else "no port from 7860 on is free: choose one with --port"
        ) from error
    return address


def _theme() -> Any:
    """Return Gradio's theme, with colours that have enough contrast to be read."""
    import gradio

    return gradio.themes.Default(primary_hue="blue").set(
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
    )
