"""The model card, rendered from one template at every save, and results added to it later.

A card is about the weights beside it and how to make them again. It holds no absolute path and no token, and two runs
of the same thing have the same card but for the times.

A card is made from [`CardFacts`] alone; `trainer.card_facts()` gives those of a run.

Inside, a module imports only from those above it: `facts`, `architecture` (reads an encoder into facts), `text`
(tables, paths, the command line), `origin` (what training started from, adapters), `training` (networks, game,
options, environment), `data` (sources, counts, held-out sets), `results` (figures and `model-index`), `limits`,
`rendering`.
"""

from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.licenses import LICENSES
from adversarial_mlm.saving.model_card.rendering import write
from adversarial_mlm.saving.model_card.results import add_results
from adversarial_mlm.saving.model_card.text import command_line

__all__ = ["LICENSES", "CardFacts", "add_results", "command_line", "write"]
