"""generation_config.json of Transformers: how a decoder continues a text. What is used is applied
in inference/generation.py, where options of the same names and types override it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from canao.model.inventory.table import Table, inert, refused, used

_Count = Annotated[int, Meta(ge=0)]
_Positive = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Factor = Annotated[float, Meta(gt=0)]
_Tokens = list[int]
_Sequence = Annotated[list[_Count], Meta(min_length=1)]
_Text = Annotated[str, Meta(min_length=1)]

_SAMPLING = "where tokens are drawn: "
_BEAMS = "counts in beam search only, which is not supported"
_DRAFTS = "counts only where another model drafts tokens, and none does"
_OUTPUTS = "asks for outputs that no task reads"
_PYTHON = "how Python code computes it, not what"
_RECORD = "a record of where the file came from"
_ENCODER = "counts in models with an encoder of their own"
_NO_BEAMS = "only greedy decoding and sampling are supported; set num_beams to 1, or take it out"
_NO_DRAFTS = ("tokens are not drafted; take it out: greedy decoding and sampling write the same "
              "without")  # fmt: skip
_NO_SEARCH = "only greedy decoding and sampling are supported; take it out"
_CHAT = "is read by code that belongs to one family's chats, not by generate"

GENERATION = Table(
    {
        # How long a text is, and where it ends.
        "max_length": used("the most tokens of a text, its prompt among them; max_new_tokens "
                           "counts before it", _Positive | None),
        "max_new_tokens": used("the most tokens after the prompt", _Positive | None),
        "min_length": used("the fewest tokens of a text, its prompt among them, before an end "
                           "token may come", _Count | None),
        "min_new_tokens": used("the same, without the prompt", _Count | None),
        "eos_token_id": used("which tokens end a text", int | list[int] | None),
        "stop_strings": used("texts after which it ends", _Text | list[_Text] | None),
        "max_time": used("the seconds after which it ends",
                         Annotated[float, Meta(ge=0)] | None),
        # How the next token is chosen.
        "do_sample": used("whether tokens are drawn; else the most probable one is taken",
                          bool | None),
        "temperature": used(_SAMPLING + "logits are divided by it",
                            Annotated[float, Meta(ge=0)] | None),
        "top_k": used(_SAMPLING + "from this many; 0: from all", _Count | None),
        "top_p": used(_SAMPLING + "from the fewest that together have this probability",
                      _Share | None),
        "min_p": used(_SAMPLING + "from those with this part of the largest probability",
                      _Share | None),
        "top_h": used(_SAMPLING + "from those that have this part of the entropy",
                      Annotated[float, Meta(gt=0, le=1)] | None),
        "typical_p": used(_SAMPLING + "from the most typical that together have this probability",
                          Annotated[float, Meta(gt=0, le=1)] | None),
        "epsilon_cutoff": used(_SAMPLING + "from those with at least this probability",
                               _Share | None),
        "eta_cutoff": used(_SAMPLING + "the same, less where many tokens are likely",
                           _Share | None),
        # What is done to logits before.
        "repetition_penalty": used("makes tokens of the text less likely, the more above 1",
                                   _Factor | None),
        "encoder_repetition_penalty": used("makes tokens of the prompt more likely, the more "
                                           "above 1", _Factor | None),
        "no_repeat_ngram_size": used("no sequence of this many tokens comes twice; 0: any may",
                                     _Count | None),
        "encoder_no_repeat_ngram_size": used("no sequence of this many tokens of the prompt comes "
                                             "again; 0: any may", _Count | None),
        "bad_words_ids": used("sequences of tokens that never come",
                              Annotated[list[_Sequence], Meta(min_length=1)] | None),
        "sequence_bias": used("numbers added to the logits of tokens that end a sequence, as a "
                              "list of [tokens, number]",
                              Annotated[list[tuple[_Sequence, float]], Meta(min_length=1)] | None),
        "suppress_tokens": used("tokens that never come", _Tokens | None),
        "begin_suppress_tokens": used("tokens that do not come first", _Tokens | None),
        "forced_bos_token_id": used("the token after a prompt of one token", _Count | None),
        "forced_eos_token_id": used("the last token of a text of the greatest length",
                                    _Count | list[_Count] | None),
        "exponential_decay_length_penalty": used("[start, factor]: end tokens become likelier "
                                                 "after this many tokens",
                                                 tuple[int, float] | None),
        "remove_invalid_values": used("replaces NaN and infinite logits", bool | None),
        "renormalize_logits": inert("adds one number to all logits, which changes no choice",
                                    bool | None),
        # Other ways of decoding.
        "num_beams": inert("one beam is no beam search", only=(1, None), remedy=_NO_BEAMS),
        "num_beam_groups": inert("one beam is no beam search", only=(1, None), remedy=_NO_BEAMS),
        "num_return_sequences": inert("one text is written for a prompt", only=(1, None),
                                      remedy="run the prompt several times, or take it out"),
        "early_stopping": inert(_BEAMS, only=(True, False, "never", None)),
        "length_penalty": inert(_BEAMS, float | None),
        "diversity_penalty": inert(_BEAMS, float | None),
        "constraints": inert("no constraints", only=(None,), remedy=_NO_BEAMS),
        "force_words_ids": inert("no constraints", only=(None,), remedy=_NO_BEAMS),
        "penalty_alpha": inert("no contrastive search", only=(0, 0.0, None), remedy=_NO_SEARCH),
        "dola_layers": inert("logits come from the last layer alone", only=(None,),
                             remedy=_NO_SEARCH),
        "guidance_scale": inert("no guidance", only=(1, 1.0, None), remedy=_NO_SEARCH),
        "watermarking_config": inert("no watermark", only=(None,), remedy=_NO_SEARCH),
        "token_healing": inert("the prompt's tokens are kept", only=(False, None),
                               remedy=_NO_SEARCH),
        "low_memory": inert(_PYTHON, bool | None),
        # Drafts of other models, or of the text itself.
        "prompt_lookup_num_tokens": inert("tokens are not drafted", only=(None,),
                                          remedy=_NO_DRAFTS),
        "assistant_early_exit": inert("tokens are not drafted", only=(None,), remedy=_NO_DRAFTS),
        "use_mtp": inert("tokens are not drafted", only=(False, None), remedy=_NO_DRAFTS),
        "speculation_type": inert("tokens are not drafted", only=(None,), remedy=_NO_DRAFTS),
        "is_assistant": inert("the model drafts for no other", only=(False, None),
                              remedy=_NO_DRAFTS),
        "assistant_ensemble_weight": inert("tokens are not drafted", only=(None,),
                                           remedy=_NO_DRAFTS),
        "num_assistant_tokens": inert(_DRAFTS, int | None),
        "num_assistant_tokens_schedule": inert(_DRAFTS, str | None),
        "assistant_confidence_threshold": inert(_DRAFTS, float | None),
        "max_matching_ngram_size": inert(_DRAFTS, int | None),
        "assistant_lookbehind": inert(_DRAFTS, int | None),
        "target_lookbehind": inert(_DRAFTS, int | None),
        # Tokens with a meaning.
        "pad_token_id": inert("nothing is padded", int | None),
        "bos_token_id": inert("the tokenizer puts it into the prompt", int | list[int] | None),
        "decoder_start_token_id": inert(_ENCODER, int | list[int] | None),
        "forced_decoder_ids": inert("no token is forced", only=(None,), remedy=(
            "Transformers 5 has no forced tokens but the first and the last; take it out"
        )),
        # How it is computed.
        "use_cache": inert("the library has a cache of its own", bool | None),
        "cache_implementation": inert(
            "keys and values are kept as they are",
            only=(None, "dynamic", "static", "offloaded", "offloaded_static", "sliding_window",
                  "hybrid", "hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked",
                  "paged"),
            remedy="the library keeps keys and values as float32; take it out",
        ),
        "cache_config": inert("belongs to a cache that the library does not have"),
        "max_cache_len": inert(_PYTHON, int | None),
        "prefill_chunk_size": inert(_PYTHON, int | None),
        "compile_config": inert(_PYTHON),
        "disable_compile": inert(_PYTHON, bool | None),
        "continuous_batching_config": inert(_PYTHON),
        # What Python code gets.
        "output_attentions": inert(_OUTPUTS, bool | None),
        "output_hidden_states": inert(_OUTPUTS, bool | None),
        "output_scores": inert(_OUTPUTS, bool | None),
        "output_logits": inert(_OUTPUTS, bool | None),
        "return_dict_in_generate": inert("how Python code gets the outputs", bool | None),
        # Records.
        "transformers_version": inert(_RECORD, str | None),
        "_from_model_config": inert(_RECORD, bool | None),
        "_commit_hash": inert(_RECORD, str | None),
        "chat_format": inert(_CHAT),
        "max_window_size": inert(_CHAT),
        "user_token_id": inert(_CHAT),
        "assistant_token_id": inert(_CHAT),
        **{name: refused(f"it is an argument of generate, not a setting; take out {name}")
           for name in (
               "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus",
               "assistant_model", "streamer", "negative_prompt_ids",
               "negative_prompt_attention_mask")},
        "custom_generate": refused(
            "it names code of its own, and CANAO runs no code of a model directory; take it out"
        ),
        "trust_remote_code": refused("CANAO runs no code of a model directory; take it out"),
    }
)  # fmt: skip
