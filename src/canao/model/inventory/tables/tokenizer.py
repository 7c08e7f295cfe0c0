"""The files of a tokenizer: tokenizer_config.json, special_tokens_map.json, the tokens that were
added, tokenizer.json and vocabularies.

Token ids are those of Transformers' AutoTokenizer, which reads the same files; what its class of
tokenizer does not read is noted as such once the class is known.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from canao.model.inventory.table import Entry, Table, inert, refused, used

# A token is its text, or its text and how it is found in a text.
Token = str | dict[str, str | bool | int] | None
_Several = str | dict[str, str | bool | int]
Tokens = list[_Several] | dict[str, _Several] | None
# Larger ids belong to no model that can be compiled (docs/models.md).
Id = Annotated[int, Meta(ge=0, lt=1 << 24)]
# Transformers writes 1e30 where nothing limits a text.
_Length = Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1e9)] | None

_CHAT = "texts are given as they are, not as a conversation"
_RECORD = "a record of where the tokenizer came from"
_PLACE = "files of the model directory are read under their usual names"
_CALL = "Transformers takes it from each call, not from here"
_PADDING = "no text is padded"
_OLDER = "Transformers 5 does not read it"
_VOCABULARY = "the vocabulary is not read from settings; take it out"
_CODE = ("it names code of its own, and CANAO runs no code of a model directory; take the entry "
         "out if a class of Transformers makes the same ids, or move the tokenizer's files away "
         "and give the model token ids from Python")  # fmt: skip

_SPECIAL = {
    "bos_token": used("the token that begins a text", Token),
    "eos_token": used("the token that ends a text", Token),
    "unk_token": used("the token for what the vocabulary lacks", Token),
    "sep_token": used("the token between two texts", Token),
    "pad_token": used("the token that training pads with", Token),
    "cls_token": used("the token before a text that is classified", Token),
    "mask_token": used("the token to be filled in", Token),
    "additional_special_tokens": used("further tokens that texts are not split at", Tokens),
    "extra_special_tokens": used("further tokens that texts are not split at", Tokens),
    "model_specific_special_tokens": used(
        "further tokens that texts are not split at", dict[str, Token] | None
    ),
}
# A model's own special tokens, such as image_token.
_OWN_TOKENS = {r"\w+_token": used("a special token of this model's own", Token)}

TOKENIZER_CONFIG = Table(
    {
        **_SPECIAL,
        "tokenizer_class": used("which tokenizer reads the vocabulary", str | None),
        "added_tokens_decoder": used("tokens that were added to the vocabulary", dict[str, dict]),
        "model_max_length": used("how long a text may be before it is truncated", _Length),
        "max_len": used("the same, as older versions wrote it", _Length),
        "truncation_side": used("which end of a text is cut off", Literal["right", "left"]),
        "padding_side": inert(_PADDING, Literal["right", "left"]),
        "model_input_names": used("whether the model is given token type ids", list[str]),
        "clean_up_tokenization_spaces": used(
            "whether blanks before punctuation are removed from decoded text", bool | None
        ),
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": used(
            "the same for a BPE vocabulary", bool
        ),
        "split_special_tokens": used("whether special tokens in a text are split, too", bool),
        "do_lower_case": used("whether texts are lower-cased", bool),
        "strip_accents": used("whether accents are removed", bool | None),
        "tokenize_chinese_chars": used("whether each Chinese character is a word", bool),
        "add_prefix_space": used("whether a blank is put before a text", bool | None),
        "trim_offsets": used("whether offsets leave out blanks", bool),
        "add_bos_token": used("whether a text begins with bos_token, without tokenizer.json",
                              bool | None),
        "add_eos_token": used("whether a text ends with eos_token, without tokenizer.json",
                              bool | None),
        "keep_accents": used("whether accents are kept", bool),
        "remove_space": used("whether blanks are removed", bool),
        "split_by_punct": used("whether punctuation is split off", bool),
        "legacy": used("how blanks around special tokens are read", bool | None),
        "extra_ids": used("how many <extra_id_...> tokens there are",
                          Annotated[int, Meta(ge=0, le=100_000)]),
        "unk_id": used("the id for what the vocabulary lacks", Id),
        "fix_mistral_regex": used("whether the pattern of words is corrected", bool | None),
        "errors": inert("the tokenizers library replaces bytes that are no text", str),
        "sp_model_kwargs": inert("options for SentencePiece, none of them set",
                                 dict | None, only=({}, None),
                                 remedy="take it out: SentencePiece itself is not run"),
        "do_basic_tokenize": inert(_OLDER, bool | None),
        "never_split": inert(_OLDER, list | None),
        "wordpieces_prefix": inert(_OLDER, str),
        "clean_text": inert(_OLDER, bool),
        "normalization": inert("only tokenizers that are refused read it", bool | None),
        "vocab_type": inert(_OLDER, str),
        "use_default_system_prompt": inert(_CHAT, bool | None),
        "spaces_between_special_tokens": inert(_OLDER, bool | None),
        "chat_template": inert(_CHAT),
        "response_template": inert(_CHAT),
        "response_schema": inert(_CHAT),
        "chat_control_tokens": inert(_CHAT, list[str] | None),
        "pad_token_type_id": inert(_PADDING, int),
        "pad_token_id": inert("pad_token decides", int | None),
        "pad_to_multiple_of": inert(_PADDING, int | None),
        "max_length": inert(_CALL, int | None),
        "stride": inert(_CALL, int | None),
        "truncation_strategy": inert(_CALL, str),
        "truncation": inert(_CALL),
        "padding": inert(_CALL),
        "return_token_type_ids": inert(_CALL, bool | None),
        "return_attention_mask": inert(_CALL, bool | None),
        "return_tensors": inert(_CALL),
        "name_or_path": inert(_RECORD, str | None),
        "_name_or_path": inert(_RECORD, str | None),
        "special_tokens_map_file": inert(_PLACE, str | None),
        "tokenizer_file": inert(_PLACE, str | None),
        "vocab_file": inert(_PLACE, str | None),
        "processor_class": inert(_RECORD, str | None),
        "image_processor_type": inert(_RECORD),
        "slow_tokenizer_class": inert(_RECORD),
        "tokenizer_version": inert(_RECORD),
        "transformers_version": inert(_RECORD, str | None),
        "verbose": inert("how much Transformers reports", bool),
        "backend": inert(_RECORD, str | None),
        "is_local": inert(_RECORD, bool),
        "local_files_only": inert("nothing is downloaded", bool),
        "files_loaded": inert(_RECORD, list),
        "_commit_hash": inert(_RECORD, str | None),
        "device_map": inert("a tokenizer runs on no device"),
        "torch_dtype": inert("a tokenizer has no weights"),
        "dtype": inert("a tokenizer has no weights"),
        "use_fast": inert("Transformers 5 has one tokenizer of each class", bool | None),
        "from_slow": inert(_OLDER, bool | None),
        "model_type": inert("config.json decides"),
        "init_inputs": inert("unnamed settings, of which there are none", list, only=([],),
                             remedy="give the settings by name"),
        "auto_map": refused(_CODE),
        "trust_remote_code": refused("CANAO runs no code of a model directory; take it out"),
        "fast_tokenizer_files": refused(
            "only tokenizer.json is read; save the tokenizer again with Transformers 5"
        ),
        "merges_file": inert(_PLACE, str | None, only=(None,),
                             remedy="take it out: merges.txt is read under that name"),
        "vocab": refused(_VOCABULARY),
        "merges": refused(_VOCABULARY),
        "tokenizer_object": refused(_VOCABULARY),
        "gguf_file": refused(_VOCABULARY),
        "spm_file": refused(_VOCABULARY),
        "post_processor": refused("tokenizer.json decides; take it out"),
        "tokenizer_truncation": refused("tokenizer.json decides; take it out"),
        "tokenizer_padding": refused("tokenizer.json decides; take it out"),
        "_json_truncation": refused("tokenizer.json decides; take it out"),
        "_json_padding": refused("tokenizer.json decides; take it out"),
        "_spm_precompiled_charsmap": refused("tokenizer.json decides; take it out"),
        "dropout": refused("ids would be drawn at random; take it out"),
    },
    _OWN_TOKENS,
)  # fmt: skip

SPECIAL_TOKENS_MAP = Table(_SPECIAL, _OWN_TOKENS)

# A token with how it is found in a text, wherever tokens are listed.
ADDED_TOKEN = Table(
    {
        "content": used("its text", str),
        "single_word": used("whether it is found as a whole word only", bool),
        "lstrip": used("whether it takes the blanks before it along", bool),
        "rstrip": used("whether it takes the blanks after it along", bool),
        "normalized": used("whether it is looked for after normalizing", bool),
        "special": used("whether decoding leaves it out", bool),
        "id": used("its id", Id),
        "__type": inert("says that this is a token", str, only=("AddedToken",)),
    }
)

TOKENIZER_JSON = Table(
    {
        "version": inert("the tokenizers library refuses what it does not know", str),
        "truncation": used("which end of a text is cut, unless tokenizer_config.json says",
                           dict | None),
        "padding": inert(_PADDING, dict | None),
        "added_tokens": used("tokens that were added to the vocabulary",
                             list[dict[str, str | bool | int]]),
        "normalizer": used("what happens to a text before it is split", dict | None),
        "pre_tokenizer": used("how a text is split into words", dict | None),
        "post_processor": used("which special tokens a text is given, and token types",
                               dict | None),
        "decoder": used("how tokens become text", dict | None),
        "model": used("the vocabulary, and how words are split by it", dict),
    }
)  # fmt: skip

# Files of vocabularies. Which of them is read is decided by the class of the tokenizer.
VOCABULARIES = (
    "vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "spiece.model", "spm.model",
    "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "target.spm",
    "tokenizer.model", "tokenizer.model.*", "tiktoken.model", "*.tiktoken", "tekken.json",
    "vocab-src.json", "vocab-tgt.json", "word_shape.json", "word_pronunciation.json",
    "prophetnet.tokenizer", "emoji.json", "entity_vocab.json", "normalizer.json",
    "byte_maps.json", "source.bpe", "target.bpe",
)  # fmt: skip
ADDED_TOKENS_FILE: Entry = used("ids of tokens that were added", Id)
