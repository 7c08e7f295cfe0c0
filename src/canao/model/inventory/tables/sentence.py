"""The settings files of a Sentence-Transformers directory, of versions 2 to 6, and of SetFit."""

from __future__ import annotations

from typing import Literal

from canao.model.inventory.table import Table, inert, refused, used

_RECORD = "a record of what the model was saved with"
_WIDTH = "the width follows from the weights"
_PYTHON = "how Python code loads or computes it"
_ASYMMETRIC = "counts in encode_query and encode_document only; texts are read as encode reads them"
_KWARGS = (
    "it changes how Sentence-Transformers loads the model; save the model loaded so, and without it"
)
_IN = "which of the features so far is taken"
_OUT = "what the result is called"

# An entry of the list in modules.json.
MODULES = Table({
    "idx": inert("modules run in the order of the list", int),
    "name": inert("how Python code calls the module", str),
    "path": used("the folder of the module", str),
    "type": used("the class of the module", str),
    "kwargs": inert("names options of encode, of which none is given", list[str]),
})  # fmt: skip

# config_sentence_transformers.json.
ROOT = Table({
    "__version__": inert(_RECORD, dict[str, object]),
    "requirements": inert("which Python packages its author asks for", dict | list | str | None),
    "model_type": used(
        "which class of Sentence-Transformers it is", str,
        only=("SentenceTransformer", "CrossEncoder"),
        remedy="sparse and multi-vector models are not supported; compile a model that gives one "
        "vector of a text, or its Transformers model alone",
    ),
    "prompts": used("texts that may be put before a text, by name", dict[str, str | None] | None),
    "default_prompt_name": used("which prompt is put before a text that names none", str | None),
    "similarity_fn_name": inert("compares vectors after they were made", str | None),
    "truncate_dim": used("how many numbers of the vector are kept", int | None),
    "activation_fn": used("how a CrossEncoder makes scores of logits", str | None),
    "keep_in_fp32_modules": inert("all is computed in float32", list[str] | None),
})  # fmt: skip

# sentence_bert_config.json, by any of its names, in the order in which they are looked for.
TRANSFORMER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TRANSFORMER = Table({
    "max_seq_length": used("texts are cut at so many tokens", int | None),
    "do_lower_case": used("texts are put in lower case first", bool | None),
    "transformer_task": used(
        "which head of the model is loaded", str,
        only=("feature-extraction", "sequence-classification"),
        remedy="compile a model that gives sentence embeddings or scores of pairs",
    ),
    "modality_config": used("what the model is called with, and which output is taken",
                            dict[str, dict[str, object]] | None),
    "module_output_name": used("what the output is called", str | None),
    "processing_kwargs": used("how the tokenizer is called", dict[str, dict[str, object]] | None),
    "unpad_inputs": inert("nothing is computed for padding", bool | None),
    "query_length": inert(_ASYMMETRIC, int | None),
    "document_length": inert(_ASYMMETRIC, int | None),
    "query_expansion": inert(
        "no query is filled up with tokens", only=(None,),
        remedy="multi-vector models (ColBERT) are not supported",
    ),
    "tokenizer_name_or_path": inert(
        "the tokenizer lies with the model", only=(None, ""),
        remedy="copy that tokenizer's files to the model and take the entry out",
    ),
    "cache_dir": inert(_PYTHON),
    "backend": inert(_PYTHON, str | None),
    **dict.fromkeys(
        ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args",
         "config_kwargs"),
        used("how Sentence-Transformers loads the model", dict[str, object] | None),
    ),
})  # fmt: skip
# What model_args, config_args and tokenizer_args hold.
LOADING = Table({
    **dict.fromkeys(
        ("trust_remote_code", "attn_implementation", "torch_dtype", "dtype", "device_map",
         "use_cache", "use_safetensors",
         "low_cpu_mem_usage", "local_files_only", "padding_side", "use_fast",
         "cache_dir", "token", "use_memory_efficient_attention", "unpad_inputs"),
        inert(_PYTHON),
    ),
    "model_max_length": used("texts are cut at so many tokens", int),
}, {r".*": refused(_KWARGS)})  # fmt: skip
# What modality_config holds for texts.
MODALITY = Table({
    "method": used("which method of the model is called", str, only=("forward",),
                   remedy="only models that are called as a whole are supported"),
    "method_output_name": used("which output is taken", str | list[object] | None),
    "format": inert("conversations only", str),
})  # fmt: skip
# What processing_kwargs holds for texts: the arguments of the tokenizer.
PROCESSING = Table({
    "max_length": used("texts are cut at so many tokens", int | None),
    "truncation": used(
        "whether long texts are cut", bool | str | None, only=(True, "longest_first"),
        remedy="Sentence-Transformers' default is longest_first, which is supported",
    ),
    "add_special_tokens": used("whether the tokenizer adds its tokens", bool, only=(True,),
                               remedy="texts are read with the tokens that their tokenizer adds"),
    "padding": inert("nothing is padded", bool | str),
    "padding_side": inert("nothing is padded", str | None),
    "pad_to_multiple_of": inert("nothing is padded", int | None),
    "logits_to_keep": inert("counts for generating models only", int),
}, {r"return_.*": inert("how Python code gets the tokens")})  # fmt: skip

# 1_Pooling/config.json.
_MODE = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
OLDER_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_PRESENT = "the width of the vectors: one of the two has to be there"
POOLING = Table({
    "word_embedding_dimension": used(_PRESENT, int),
    "embedding_dimension": used(_PRESENT, int),
    "pooling_mode": used("how token vectors become one", _MODE | list[_MODE]),
    "include_prompt": used("whether the tokens of a prompt are pooled, too", bool),
    **{
        name: used(f"whether '{mode}' is pooled; versions before 5.4 wrote it", bool)
        for name, mode in OLDER_POOLINGS.items()
    },
})  # fmt: skip

# N_Dense/config.json.
DENSE = Table({
    "in_features": inert(_WIDTH, int),
    "out_features": inert(_WIDTH, int),
    "bias": used("whether the map has a bias", bool),
    "activation_function": used("what follows the map", str),
    "module_input_name": used(_IN, str | None),
    "module_output_name": used(_OUT, str | None),
    "use_residual": used("whether the input is added to the result", bool),
})  # fmt: skip
NORMALIZE = Table({
    "module_input_name": used(_IN, str | None),
    "module_output_name": used(_OUT, str | None),
})  # fmt: skip
DROPOUT = Table({"dropout": inert("counts in training only", float)})
LAYER_NORM = Table({"dimension": inert(_WIDTH, int)})
LAYER_POOLING = Table({
    "word_embedding_dimension": inert(_WIDTH, int),
    "embedding_dimension": inert(_WIDTH, int),
    "layer_start": used("the first layer that counts", int),
    "num_hidden_layers": used("the last layer that counts", int),
})  # fmt: skip
WORD_WEIGHTS = Table({
    "vocab": used("the tokens, in the order of their ids", list[str]),
    "word_weights": used("how much a token counts", dict[str, float]),
    "unknown_word_weight": used("how much every other token counts", float),
})  # fmt: skip
CNN = Table({
    "in_word_embedding_dimension": inert(_WIDTH, int),
    "in_embedding_dimension": inert(_WIDTH, int),
    "out_channels": inert(_WIDTH, int),
    "kernel_sizes": used("how many tokens each convolution sees", list[int]),
    "stride_sizes": used("how far each convolution moves", list[int] | None),
})  # fmt: skip

# What `sentence_transformers` holds in the config.json of a CrossEncoder.
CROSS_ENCODER = Table({
    "activation_fn": used("how a CrossEncoder makes scores of logits", str | None),
    "version": inert(_RECORD, str | None),
})  # fmt: skip

# config_setfit.json.
SETFIT = Table({
    "labels": used("the names of the labels, in the order of the head's classes", list[str] | None),
    "normalize_embeddings": used("whether vectors are scaled to length 1 before the head", bool),
    "span_context": refused("models of aspects (AbsaModel) are not supported; compile its parts' "
                            "sentence encoders"),
    "spacy_model": refused("models of aspects (AbsaModel) are not supported; compile its parts' "
                           "sentence encoders"),
})  # fmt: skip

# Every table of this module, by the file, or the entry of a file, that it is of.
TABLES: dict[str, Table] = {
    "modules.json": MODULES,
    "config_sentence_transformers.json": ROOT,
    "sentence_bert_config.json": TRANSFORMER,
    "sentence_bert_config.json, model_args, config_args and tokenizer_args": LOADING,
    "sentence_bert_config.json, modality_config.text": MODALITY,
    "sentence_bert_config.json, processing_kwargs.text": PROCESSING,
    "Pooling/config.json": POOLING,
    "Dense/config.json": DENSE,
    "Normalize/config.json": NORMALIZE,
    "Dropout/config.json": DROPOUT,
    "LayerNorm/config.json": LAYER_NORM,
    "WeightedLayerPooling/config.json": LAYER_POOLING,
    "WordWeights/config.json": WORD_WEIGHTS,
    "CNN/cnn_config.json": CNN,
    "config.json, sentence_transformers": CROSS_ENCODER,
    "config_setfit.json": SETFIT,
}
