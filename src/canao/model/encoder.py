"""The class of a model that gives token vectors: a family's model without a head, and of a family
of encoders with decoders the encoder alone, as Sentence-Transformers loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from canao.errors import UnsupportedError

# By the family. Their encoders are classes of their own, which take the whole model's weights.
_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
}
# Sentence-Transformers loads only the encoder of these, by classes that are no part of
# Transformers' interface.
_WITHOUT = ("blenderbot", "blenderbot-small", "m2m_100", "marian", "moonshine", "pegasus",
            "pegasus_x", "prophetnet",
            "t5gemma", "t5gemma2", "t5gemma2_text", "udop", "whisper")  # fmt: skip


def encoder_class(config: Any) -> Any:
    """The class of Transformers that gives token vectors for a configuration.

    UnsupportedError for a family whose encoder alone cannot be loaded.
    """
    import transformers

    family = getattr(config, "model_type", "")
    if family in _ENCODERS:
        return getattr(transformers, _ENCODERS[family])
    if family in _WITHOUT:
        raise UnsupportedError(
            f"the encoder of a {family} model by itself is not supported; those of "
            f"{', '.join(_ENCODERS)} are, and encoders without a decoder"
        )
    found = transformers.MODEL_MAPPING.get(type(config), transformers.AutoModel)
    return found[0] if isinstance(found, tuple) else found


def refuse_decoder(path: Path, config: Any, named: str) -> None:
    """UnsupportedError for a class that has a decoder beside its encoder, which writes a text of
    its own; `named` is the class that config.json names."""
    family = getattr(config, "model_type", "")
    whole = _ENCODERS.get(family, "").replace("Encoder", "")
    if named == whole or named.endswith("ForConditionalGeneration"):
        encoder = _ENCODERS.get(family)
        remedy = "compile an encoder or a decoder alone"
        if encoder is not None:
            remedy = (
                f"its encoder alone is: save it by transformers.{encoder}.from_pretrained(...)."
                "save_pretrained(...)"
            )
        raise UnsupportedError(
            f"{path}/config.json: {named} ({family}) has an encoder and a decoder, which is not "
            f"supported; {remedy}"
        )
