"""Pushing to the Hub: what a push sends, when, and what happens where it fails."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, constants, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import hf_api

from adversarial_mlm.saving.run_files import (
    CARD_FACTS_FILE,
    EDITED_RECIPES,
    MANIFEST_FILE,
    METRICS_FILE,
    NOISER_FOLDER,
    OPTIONS_FILE,
    SLOW_ENCODER_FILE,
    TEACHER_FILE,
    output_folder,
)
from adversarial_mlm.utils.counts import verb
from adversarial_mlm.utils.errors import PushError, clip, redact

logger = logging.getLogger(__name__)

SILENCE_LIMIT = 300.0  # seconds without a byte from the Hub, after which a request has failed
WAIT_AFTER_SIGNAL = 10.0  # seconds; job schedulers kill a program about 30 s after SIGTERM
SNAPSHOT_PREFIX = ".push-to-hub-"

_ARGUMENTS_PICKLE = "training_args.bin"
# files that only resuming and `adv-mlm card` need, pickles, and files with private names
_NOT_SENT = (
    *("*.pt", "*.pth", "*.bin", "trainer_state.json", MANIFEST_FILE, OPTIONS_FILE, SLOW_ENCODER_FILE, TEACHER_FILE),
    *(CARD_FACTS_FILE, EDITED_RECIPES, "_*", ".*"),
)
_LONGEST_REASON = 300  # characters
_CLIENT_LOGGERS = ("huggingface_hub", "httpx", "httpx2")
_LOOK_EVERY = 0.2  # seconds between two looks whether a signal has arrived


@dataclass
class Snapshot:
    """Copies of the files of one push, which training may rewrite and delete meanwhile.

    Attributes:
        folder: Where the copies are; removed when the push is over.
        additions: Which copy becomes which file of the repository.
    """

    folder: str
    additions: list[CommitOperationAdd]


def files_of_model(folder: str) -> dict[str, Path]:
    """Name in the repository → file, for all that a saved model consists of.

    These are the files at the top of the folder and in `noiser/`, without pickles and what only resuming needs.
    """
    paths = [*Path(folder).glob("*"), *Path(folder, NOISER_FOLDER).glob("*")]
    files = {path.relative_to(folder).as_posix(): path for path in sorted(paths) if path.is_file()}
    return {name: path for name, path in files.items() if not any(fnmatch(name, pattern) for pattern in _NOT_SENT)}


def files_of_checkpoint(folder: str, prefix: str) -> dict[str, Path]:
    """The same for a whole checkpoint, with what resuming needs, to go below `prefix`."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != _ARGUMENTS_PICKLE]
    return {f"{prefix}/{path.relative_to(folder).as_posix()}": path for path in paths}


def take_snapshot(files: dict[str, Path], output_dir: str) -> Snapshot:
    """Copy the files of a push into a hidden folder of `output_dir`.

    Raises:
        PushError: If they cannot be copied.
    """
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix=SNAPSHOT_PREFIX, dir=output_dir)
        copies = {path: os.path.join(folder, str(index)) for index, path in enumerate(dict.fromkeys(files.values()))}
        for path, copy in copies.items():
            shutil.copyfile(path, copy)
        additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=copies[files[name]]) for name in files]
        return Snapshot(folder, additions)
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise PushError(f"cannot copy what is to be pushed: {error.strerror or error}") from None


def send(snapshot: Snapshot, repo_id: str, message: str, token: str | None, revision: str | None) -> CommitInfo:
    """Send a snapshot in one commit, and remove it.

    `upload_folder`, which the stock trainer uses, cuts a slow upload into several commits.

    Raises:
        PushError: Whatever goes wrong.
    """
    try:
        with _quiet_client():
            return hf_api().create_commit(
                repo_id=repo_id,
                operations=snapshot.additions,
                commit_message=message,
                token=token,
                revision=revision,
            )
    except Exception as error:
        raise PushError(_reason(error, token)) from None  # the client's own words may hold signed addresses
    finally:
        shutil.rmtree(snapshot.folder, ignore_errors=True)


@dataclass
class PushResult:
    """How the push at the end of a run went.

    Attributes:
        repo_id: The repository.
        revision: Its branch, where one was asked for.
        address: Its address, where the push succeeded.
        failure: Why it failed, where it did.
    """

    repo_id: str
    revision: str | None = None
    address: str | None = None
    failure: str | None = None


class HubUploader:
    """Pushes a run to the Hub; one object for the main process of one run.

    Every push is one commit with encoder, tokenizer, `noiser/`, card, arguments and the files named in `run_files`,
    because they belong together. It sends a copy, so training can go on writing meanwhile. If a push during training
    fails, the first failure is logged and all are counted; the next save tries again.

    Args:
        args (`TrainingArguments`): `output_dir` and the options `hub_...`.

    Attributes:
        repo_id (`str`, *optional*): The repository, once it is ready.
        run_files (`tuple[str, ...]`): Files of `output_dir` that go with every push during training, if they exist.
        counts (`dict[str, int]`): Pushes during training that were `sent`, `failed`, and `skipped` because the one
            before them was still in progress.
    """

    def __init__(self, args: TrainingArguments):
        self.args = args
        self.repo_id: str | None = None
        self.run_files: tuple[str, ...] = (METRICS_FILE,)
        self.counts = {"sent": 0, "failed": 0, "skipped": 0}
        self._in_progress: list[Future] = []  # pushes of checkpoints that were begun
        self._step_in_progress = 0  # of the newest of them
        self._given_up = False

    def create_repo(self, token: str | None = None, private: bool | None = None) -> str:
        """Create the repository where there is none, and make sure that the token may write to it.

        Args:
            token (`str`, *optional*): Defaults to `hub_token`, and that to the one of `hf auth login`.
            private (`bool`, *optional*): Whether a new repository is private; defaults to `hub_private_repo`.

        Returns:
            `str`, the repository's id.

        Raises:
            ValueError: If it may not, if the repository's name is not possible, or if the Hub cannot be used.
        """
        folder = Path(output_folder(self.args))
        _remove_snapshots(folder)  # of a run that was killed
        self.repo_id = None
        name = self.args.hub_model_id or folder.absolute().name
        token, revision = token or self.args.hub_token, self.args.hub_revision
        private = self.args.hub_private_repo if private is None else private
        try:
            with _quiet_client():
                repo_id = hf_api().create_repo(name, token=token, private=private, exist_ok=True).repo_id
                hf_api().auth_check(repo_id, token=token, write=True)
                if revision is not None and not revision.startswith("refs/pr"):
                    hf_api().create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        except Exception as error:
            raise ValueError(_refusal(error, name, token)) from None
        self.repo_id = repo_id
        return repo_id

    def push_output_dir(
        self, message: str, blocking: bool = True, token: str | None = None, revision: str | None = None
    ) -> CommitInfo | Future:
        """Send the model in `output_dir` in one commit, when the push in progress is over.

        Args:
            message (`str`): Of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait for the end of the upload.
            token (`str`, *optional*): Defaults to `hub_token`, and that to the one of `hf auth login`.
            revision (`str`, *optional*): The branch; defaults to `hub_revision`, and that to `main`.

        Returns:
            `CommitInfo`, or a `Future` of it if not `blocking`.

        Raises:
            PushError: If the push fails. If not `blocking` it is the future that raises it.
            Interrupted: If a signal arrives while it waits. The upload goes on until the program ends.
        """
        repo_id, folder = self._ready_repo(), output_folder(self.args)
        token, revision = token or self.args.hub_token, revision or self.args.hub_revision
        pool = ThreadPoolExecutor(1)  # in this thread, the client would delay a signal until files are sent
        try:
            self.wait()
            job = (take_snapshot(files_of_model(folder), folder), repo_id, message, token, revision)
            return pool.submit(send, *job).result() if blocking else hf_api().run_as_future(send, *job)
        except KeyboardInterrupt:
            _remove_snapshots(folder)
            raise
        finally:
            pool.shutdown(wait=False)

    def push_checkpoint(self, folder: str, step: int, message: str) -> bool:
        """Begin to send a checkpoint that was just saved, where `hub_strategy` asks for it; it does not wait.

        Args:
            folder (`str`): The checkpoint.
            step (`int`): Of the encoder, for the log.
            message (`str`): Of the commit.

        Returns:
            `bool`: Whether a push was begun or tried.
        """
        if self.args.hub_strategy == HubStrategy.END:
            return False
        self._in_progress = [job for job in self._in_progress if not job.done()]
        if self._in_progress and not self.args.hub_always_push:
            self.counts["skipped"] += 1
            return False
        try:
            snapshot = take_snapshot(self._files_of_push(folder), output_folder(self.args))
        except PushError as error:
            self._count_failure(step, error)
            return True
        self._in_progress.append(hf_api().run_as_future(self._send_and_count, snapshot, step, message))
        self._step_in_progress = step
        return True

    def wait(self, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait for the push in progress, if there is one.

        After a signal the wait takes at most `WAIT_AFTER_SIGNAL` seconds more, and the push is given up.

        Args:
            is_stopped (`Callable[[], bool]`, *optional*): Whether a signal has arrived; asked while waiting.
        """
        if all(job.done() for job in self._in_progress):
            return
        _tell(logging.INFO, f"push_to_hub: waiting for the push of step {self._step_in_progress}")
        deadline: float | None = None
        while wait(self._in_progress, timeout=_LOOK_EVERY).not_done:
            if deadline is None and is_stopped():
                deadline = time.monotonic() + WAIT_AFTER_SIGNAL
                _tell(
                    logging.WARNING,
                    f"push_to_hub: after the signal, the push of step {self._step_in_progress} gets "
                    f"{WAIT_AFTER_SIGNAL:g} s more; a second signal ends the program at once",
                )
            if deadline is not None and time.monotonic() >= deadline:
                self._give_up()
                return

    def _give_up(self) -> None:
        self._given_up = True  # what becomes of it is not logged: the next sentence is how the run ended
        for job in self._in_progress:
            job.cancel()  # those that wait for their turn
        _remove_snapshots(output_folder(self.args))
        _tell(
            logging.WARNING,
            f"push_to_hub: the push of step {self._step_in_progress} was not complete after {WAIT_AFTER_SIGNAL:g} s "
            "and is given up; the files of the run are complete, and a resumed run pushes again",
        )

    def finish(self, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait for the push in progress as [`wait`] does, and log how many pushes failed or were skipped."""
        self.wait(is_stopped)
        sent, failed, skipped = (self.counts[name] for name in ("sent", "failed", "skipped"))
        if failed or skipped:
            _tell(
                logging.WARNING if failed else logging.INFO,
                f"push_to_hub: of the saves during training {sent} {verb(sent, 'was', 'were')} pushed, {failed} "
                f"failed, and {skipped} {verb(skipped, 'was', 'were')} skipped because the push before them was "
                "still in progress",
            )

    def _ready_repo(self) -> str:
        """The repository, which [`create_repo`] made ready."""
        if self.repo_id is None:
            raise PushError("no repository is ready: call create_repo first")
        return self.repo_id

    def _files_of_push(self, folder: str) -> dict[str, Path]:
        paths = {name: Path(output_folder(self.args), name) for name in self.run_files}
        files = files_of_model(folder) | {name: path for name, path in paths.items() if path.exists()}
        if self.args.hub_strategy == HubStrategy.CHECKPOINT:
            files |= files_of_checkpoint(folder, "last-checkpoint")
        elif self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            files |= files_of_checkpoint(folder, Path(folder).name)
        return files

    def _send_and_count(self, snapshot: Snapshot, step: int, message: str) -> None:
        # runs in the client's one background thread
        try:
            send(snapshot, self._ready_repo(), message, self.args.hub_token, self.args.hub_revision)
        except PushError as error:
            self._count_failure(step, error)
        else:
            self.counts["sent"] += 1
            if not self._given_up:
                _tell(logging.INFO, f"push_to_hub: step {step} was pushed to {self.repo_id}")

    def _count_failure(self, step: int, error: PushError) -> None:
        self.counts["failed"] += 1
        if self.counts["failed"] == 1 and not self._given_up:
            _tell(
                logging.WARNING,
                f"push_to_hub: step {step} was not pushed: {error}; training continues, the next save tries again, "
                "and further failures are counted",
            )


def _remove_snapshots(folder: str | Path) -> None:
    for left_over in Path(folder).glob(f"{SNAPSHOT_PREFIX}*"):
        shutil.rmtree(left_over, ignore_errors=True)


def _tell(level: int, line: str) -> None:
    with tqdm.external_write_mode():  # not into the middle of a progress bar
        logger.log(level, line)


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """The client without progress bars, without lines about retries and addresses, and without endless waiting.

    The limit to waiting stays with the client, which this process has one of.
    """
    session = get_session()
    if session.timeout.read is None:  # the client's own default; one that was set up otherwise is left alone
        session.timeout = SILENCE_LIMIT
    loggers = [logging.getLogger(name) for name in _CLIENT_LOGGERS]
    levels, had_bars = [log.level for log in loggers], not are_progress_bars_disabled()
    for log in loggers:
        log.setLevel(logging.ERROR)
    if had_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
        if had_bars:
            enable_progress_bars()


def _reason(error: Exception, token: str | None) -> str:
    """What went wrong, on one line and without secrets."""
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps what stopped the upload of a large file
    if isinstance(error, HfHubHTTPError):
        answer = f"{error.response.status_code} {error.response.reason_phrase}".strip()
        said = _one_line(error.server_message or "", token)
        return f"the Hub answered {answer}" + (f" ({said})" if said else "")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids it"
    if isinstance(error, ValueError) and not isinstance(error, HFValidationError):
        return f"the Hub's answer makes no sense ({_one_line(str(error), token)})"
    return f"{type(error).__name__}: {_one_line(str(error), token)}"


def _one_line(text: str, token: str | None) -> str:
    return clip(redact(" ".join(text.split()), (token, get_token())), _LONGEST_REASON)


def _refusal(error: Exception, repo_id: str, token: str | None) -> str:
    """Why a run that is to be pushed cannot start, in one sentence that names the option to look at."""
    if isinstance(error, HFValidationError):
        return f"hub_model_id: '{repo_id}' cannot be the name of a repository: {_one_line(str(error), token)}"
    reason = _reason(error, token)
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return (
            f"push_to_hub: the repository '{repo_id}' may not be written to: {reason}; see hub_token (or "
            "`hf auth login`) and hub_model_id"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
        return f"push_to_hub: the repository '{repo_id}' cannot be used: {reason}; see hub_model_id and hub_revision"
    return f"push_to_hub: the Hub at {constants.ENDPOINT} cannot be used: {reason}"
