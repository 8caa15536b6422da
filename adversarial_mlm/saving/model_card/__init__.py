"""The model card: rendered from a template at every save; results can be added later.

The card contains no absolute paths and no tokens. Two identical runs give identical cards.

A card is made from [`CardFacts`] alone; `trainer.card_facts()` returns those of a run.

Each module imports only from those listed before it:

- `facts`: what a card is made from.
- `architecture`: reads an encoder into facts.
- `text`: tables, paths, the command line.
- `origin`: what training started from, adapters.
- `training`: networks, game, options, environment.
- `data`: sources, counts, held-out sets.
- `results`: figures and `model-index`.
- `limits`: what the model cannot do.
- `rendering`: fills the template.
- `saved_facts`: writes the card of a complete run anew.
"""

from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.licenses import LICENSES
from adversarial_mlm.saving.model_card.rendering import write
from adversarial_mlm.saving.model_card.results import add_results
from adversarial_mlm.saving.model_card.saved_facts import rewrite, save_facts
from adversarial_mlm.saving.model_card.text import command_line

__all__ = ["LICENSES", "CardFacts", "add_results", "command_line", "rewrite", "save_facts", "write"]
