"""config.json of Transformers. What one family of models adds to it is not listed here: the
family's own code says which entries it reads (family.py)."""

from __future__ import annotations

from typing import Literal

from canao.model.inventory.table import Table, inert, refused, used

_TRAINING = "counts in training only"
_RECORD = "a record of where the model came from"
_GENERATION = "how texts are continued; counts only where there is no generation_config.json"
_OUTPUTS = "asks for outputs that no task reads"
_Names = dict[str, str]
_Token = int | list[int] | None
_EXPORT = ("Transformers 5 has no {}; export the model to ONNX with the version that trained it, "
           "and compile the .onnx file")  # fmt: skip
_NO_QUANTIZATION = ("the weights are quantized; save the model dequantized, as with "
                    "`model.dequantize()` of Transformers")  # fmt: skip

CONFIG = Table(
    {
        "model_type": used("the family of models", str),
        "architectures": used("the class of the model, and so its task", list[str] | None),
        "id2label": used("the names of the labels, by number", _Names | None),
        "label2id": used(
            "the same, by name; it must agree with id2label", dict[str, int | str] | None
        ),
        "num_labels": used("how many labels there are", int | None),
        "_num_labels": used("how many labels there are", int | None),
        "problem_type": used(
            "how scores are made of logits, and the loss in training",
            Literal["regression", "single_label_classification", "multi_label_classification"]
            | None,
        ),
        "function_to_apply": inert(
            "Transformers' pipeline reads it of models without labels only", str | None
        ),
        "sentence_transformers": used(
            "what a CrossEncoder of Sentence-Transformers adds", dict[str, object] | None
        ),
        "sbert_ce_default_activation_function": used(
            "how a CrossEncoder makes scores of logits, as versions before 4 wrote it", str | None
        ),
        "is_encoder_decoder": used("whether the model has a decoder of its own", bool),
        "is_decoder": used("whether a token attends to earlier ones only", bool),
        "tie_word_embeddings": used("whether the head shares the embedding's weights", bool),
        "pad_token_id": used("which token is padding", int | None),
        "bos_token_id": used("which token begins a text", int | None),
        "eos_token_id": used("which tokens end a text", _Token),
        "sep_token_id": used("which token separates texts", int | None),
        "cls_token_id": inert("the tokenizer puts it into the text", int | None),
        "mask_token_id": inert("the tokenizer names the mask", int | None),
        "unk_token_id": inert("the tokenizer puts it into the text", int | None),
        "decoder_start_token_id": inert("begins the text of a decoder of its own", int | None),
        "tokenizer_class": used("which tokenizer reads the vocabulary", str | None),
        "vocab_size": used("how many tokens the model has vectors for", int),
        "pruned_heads": inert(
            "no heads are removed", dict | list | None, only=({}, [], None),
            remedy=_EXPORT.format("pruned heads"),
        ),
        "auto_map": refused(
            "it names code of its own, and CANAO runs no code of a model directory; save the model "
            "as a class of Transformers"
        ),
        "custom_pipelines": refused(
            "it names code of its own, and CANAO runs no code of a model directory; take it out"
        ),
        "quantization_config": refused(_NO_QUANTIZATION),
        "compression_config": refused(_NO_QUANTIZATION),
        "adapters": refused("it holds adapters; merge them and save the model without"),
        "adapter_fusion": refused("it holds adapters; merge them and save the model without"),
        "per_layer_config": used("what differs in single layers", dict | None),
        "use_cache": inert("the library has a cache of its own", bool),
        "chunk_size_feed_forward": inert("divides the computation, not its result", int),
        "dtype": inert("weights are read as float32", str | None),
        "torch_dtype": inert("weights are read as float32", str | None),
        "return_dict": inert("how Python code gets the outputs", bool),
        "use_return_dict": inert("how Python code gets the outputs", bool),
        "output_attentions": inert(_OUTPUTS, bool),
        "output_hidden_states": inert(_OUTPUTS, bool),
        "output_past": inert(_OUTPUTS, bool),
        "torchscript": inert("how Python code gets the outputs", bool),
        "attn_implementation": inert("attention is compiled, in whatever way Python computes it"),
        "_attn_implementation": inert("attention is compiled, in whatever way Python computes it"),
        "_attn_implementation_autoset": inert("attention is compiled", bool),
        "_experts_implementation": inert("how Python code computes it"),
        "reference_compile": inert("how Python code is compiled", bool | None),
        "transformers_version": inert(_RECORD, str | None),
        "adapter_transformers_version": inert(_RECORD),
        "transformers.js_config": inert("how a browser loads the model"),
        "_name_or_path": inert(_RECORD, str | None),
        "name_or_path": inert(_RECORD, str | None),
        "_commit_hash": inert(_RECORD, str | None),
        "model_name": inert(_RECORD),
        "finetuning_task": inert(_RECORD, str | None),
        "unsloth_version": inert(_RECORD),
        "unsloth_fixed": inert(_RECORD),
        "language": inert(_RECORD),
        "directionality": inert("was read by TensorFlow code that came before Transformers"),
        "hidden_act_fn": inert(_RECORD),
        "gradient_checkpointing": inert(_TRAINING, bool),
        "xla_device": inert("was a setting for other devices", bool | None),
        "task_specific_params": inert("defaults that pipelines of Transformers had, not the model"),
        "prefix": inert("a default that pipelines of Transformers had, not the model"),
        "tpu": inert("was a setting for other devices"),
        "pooler_fc_size": inert("was read by TensorFlow code that came before Transformers", int),
        "pooler_num_attention_heads": inert(
            "was read by TensorFlow code that came before Transformers", int
        ),
        "pooler_num_fc_layers": inert(
            "was read by TensorFlow code that came before Transformers", int
        ),
        "pooler_size_per_head": inert(
            "was read by TensorFlow code that came before Transformers", int
        ),
        "pooler_type": inert("was read by TensorFlow code that came before Transformers", str),
    },
    {
        r".*(dropout|pdrop|layerdrop|drop_path_rate|drop_prob)(_.*)?": inert(_TRAINING),
        r"(initializer|init)_(range|factor|std).*|initializer_cutoff_factor": inert(_TRAINING),
        r"(mask|mask_time|mask_feature)_(time|feature)_.*": inert(_TRAINING),
    },
)

# What some families read and the others have one value for.
UNREAD = Table({
    "position_embedding_type": inert(
        "positions are absolute, as the family has them", str | None, only=("absolute", None),
        remedy=_EXPORT.format("relative positions for this family"),
    ),
    "down_scale_factor": inert("was never read", int, only=(1,)),
    "gap_size": inert("was never read", int, only=(0,)),
    "net_structure_type": inert("was never read", int, only=(0,)),
    "num_memory_blocks": inert("was never read", int, only=(0,)),
    "layers_to_keep": inert("all layers are kept", list, only=([],)),
    "tie_weights_": inert("says what tie_word_embeddings says", bool),
    "n_ctx": inert("an older name of the longest sequence", int),
    "sinusoidal_pos_embds": inert("how position embeddings began; the checkpoint holds them", bool),
})  # fmt: skip

# Settings of generation that older versions kept in config.json.
GENERATION_ENTRY = inert(_GENERATION)

# Beside an .onnx file: the graph holds the computation, and config.json only names things.
ONNX_NAMES = ("model_type", "architectures", "id2label", "label2id", "num_labels", "problem_type",
              "function_to_apply", "sentence_transformers", "eos_token_id")  # fmt: skip
IN_THE_GRAPH = inert("the computation is in the .onnx file")
