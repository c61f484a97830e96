"""The model as it was, beside the model as it is: what a KL term and DPO hold it against, and what a ratio is over."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from attune.errors import InputError
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.text.tokens import Tokens
from attune.train.objective.penalty import Snapshot, list_learning


class Reference(nn.Module):
    """The trained network itself, as it was when it was taken: at the run's start, or when it was last renewed.

    Of a model whose only change are peft's adapters, nothing is kept: they are switched off. Else a copy of what learns
    is kept, as buffers, so that it stands in every checkpoint; what is frozen is the same in both models.

    Args:
        whisper: after `finetune.apply`, which lets everything learn that ever will.
        is_renewed: it will not stay what it was at the start, so adapters are copied like anything else.
    """

    def __init__(self, whisper: Whisper, is_renewed: bool = False):
        super().__init__()
        learning = list_learning(whisper.network)
        added = set() if is_renewed else list_added(whisper.network)
        self.is_switched = bool(learning) and learning.keys() <= added
        kept = {} if self.is_switched else learning
        self.names = list(kept)
        self.start = Snapshot({name: parameter.detach().clone() for name, parameter in kept.items()})
        self.hears_alike = not any(name.startswith("model.encoder.") for name in learning)

    @contextmanager
    def stand_in(self, whisper: Whisper) -> Iterator[Whisper]:
        """The model as it was, without gradient, for as long as the context lasts.

        Parameters exchange their data and stay the same objects, so that a graph that was built before finds its own
        values again behind the context. Within it no cast of a weight may be remembered; Lightning's autocast
        remembers none.
        """
        with torch.no_grad(), evaluating(whisper.network), self._exchanged(whisper.network):
            yield whisper

    @contextmanager
    def _exchanged(self, network: nn.Module) -> Iterator[None]:
        if self.is_switched:
            with switched_off(network):
                yield
            return
        parameters = dict(network.named_parameters())
        now = {name: parameters[name].data for name in self.names}
        try:
            for name in self.names:
                parameters[name].data = self.start[name]
            yield
        finally:
            for name, data in now.items():
                parameters[name].data = data

    @torch.no_grad()
    def renew(self, whisper: Whisper) -> None:
        """Take the model as it is."""
        parameters = dict(whisper.network.named_parameters())
        for name in self.names:
            self.start[name].copy_(parameters[name])


class OtherReference:
    """Another model of the same vocabulary. It is loaded anew by a resumed run and stands in no checkpoint.

    Args:
        run_or_model: a run folder, a model folder or a hub name.
        whisper: the model that is trained: what its decoding suppresses, the reference suppresses too.

    """

    hears_alike = False

    def __init__(self, run_or_model: str, whisper: Whisper):
        self.other = load_whisper(run_or_model, load_tokens(run_or_model)).requires_grad_(False).eval()
        self.other.network.generation_config = whisper.network.generation_config

    @contextmanager
    def stand_in(self, whisper: Whisper) -> Iterator[Whisper]:
        with torch.no_grad():
            yield self.other.to(next(whisper.parameters()).device)


def take_reference(whisper: Whisper, run_or_model: str | None) -> Reference | OtherReference:
    """The model that the run starts from, or another one that is named."""
    return Reference(whisper) if run_or_model is None else OtherReference(run_or_model, whisper)


def check_vocabulary(run_or_model: str | None, tokens: Tokens) -> None:
    """Raises InputError where another reference does not write with the same tokens; None is the model itself."""
    if run_or_model is None:
        return
    theirs, ours = load_tokens(run_or_model).tokenizer, tokens.tokenizer
    if theirs.get_vocab() != ours.get_vocab():
        raise InputError(
            f"objective.reference={run_or_model} has another vocabulary ({len(theirs)} tokens) than the model that is "
            f"trained ({len(ours)}), so their chances of a token cannot be compared. Give a model of the same "
            "vocabulary, or objective.reference=null: the model that the run starts from."
        )


def find_adapters(network: nn.Module) -> list[BaseTunerLayer]:
    """peft's layers, which can be switched off: what is left is the untouched model."""
    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def list_added(network: nn.Module) -> set[str]:
    """Names of the parameters that peft has added."""
    inside = [name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)]
    return {
        name
        for name, _ in network.named_parameters()
        for layer in inside
        if name.startswith(f"{layer}.") and not name.startswith(f"{layer}.base_layer.")
    }


@contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """Without what peft has added. Its own switch would also freeze the adapters, and thaw more than was learning."""
    adapters = find_adapters(network)
    before = [layer._disable_adapters for layer in adapters]
    try:
        for layer in adapters:
            layer._disable_adapters = True
        yield
    finally:
        for layer, was in zip(adapters, before, strict=True):
            layer._disable_adapters = was


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """No dropout; afterwards every part is in the mode that it was in."""
    training = [module for module in network.modules() if module.training]
    try:
        network.eval()
        yield
    finally:
        for module in training:
            module.training = True
