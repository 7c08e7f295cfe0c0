"""The files of a model directory that no reader asked for, by name: the first pattern that matches
decides. What matches none is refused."""

from __future__ import annotations

from canao.model.inventory.table import Entry, inert, refused

_OTHER_WEIGHTS = "weights of another framework, or in a form that is never opened"
_TRAINING = "left by training"
_DOCUMENT = "a document"
_CODE = ("CANAO runs no code of a model directory; save the model as a class of Transformers, or "
         "remove the file")  # fmt: skip

# Files that have a reader, which notes what it used. One that nobody asked for is without effect.
READ = (
    "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
    "model-*-of-*.safetensors", "modules.json", "config_sentence_transformers.json",
    "sentence_*_config.json", "router_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "spiece.model", "spm.model",
    "sentencepiece.bpe.model", "tokenizer.model", "tokenizer_*.json", "dict.txt",
)
NOT_ASKED = "nothing else in the directory calls for it"

FILES: tuple[tuple[str, Entry], ...] = (
    ("generation_config.json", inert("how texts are continued; this model continues none")),
    ("train_script.py", inert("left by training; it is not run")),
    ("tokenization_*.py", refused(
        "it is a tokenizer of the model's own, and CANAO runs no code of a model directory; name a "
        "class of Transformers in tokenizer_config.json if it makes the same ids, or move the "
        "tokenizer's files away and give the model token ids from Python"
    )),
    ("*.py", refused(_CODE)),
    ("model_head.pkl", refused(
        "it is the head of a SetFit model as a pickle, which is never opened; write it as "
        "model_head.safetensors, as docs/setfit.md shows"
    )),
    ("config_setfit.json", refused(
        "the directory holds a SetFit model, whose head is a pickle; docs/setfit.md shows how to "
        "convert it"
    )),
    ("adapter_*", refused(
        "the directory holds an adapter; merge it into its base model with merge_and_unload and "
        "save that"
    )),
    ("pytorch_adapter.bin", refused("the directory holds an adapter; merge it and save the model")),
    ("pytorch_model*.bin", inert(_OTHER_WEIGHTS)),
    ("pytorch_model.bin.index.json", inert(_OTHER_WEIGHTS)),
    ("tf_model*.h5", inert(_OTHER_WEIGHTS)),
    ("tf_model.h5.index.json", inert(_OTHER_WEIGHTS)),
    ("flax_model*.msgpack", inert(_OTHER_WEIGHTS)),
    ("flax_model.msgpack.index.json", inert(_OTHER_WEIGHTS)),
    ("rust_model.ot", inert(_OTHER_WEIGHTS)),
    ("model.ckpt*", inert(_OTHER_WEIGHTS)),
    ("consolidated*.safetensors", inert("a second copy of the weights, in another form")),
    ("*.onnx", inert("another form of the model; give its path to compile it")),
    ("*.onnx_data", inert("belongs to an .onnx file")),
    ("*.onnx.data", inert("belongs to an .onnx file")),
    ("*.gguf", inert("another form of the model")),
    ("*.mlmodel", inert("another form of the model")),
    ("*.tflite", inert("another form of the model")),
    ("openvino_*", inert("another form of the model")),
    ("ort_config.json", inert("belongs to an .onnx file")),
    ("quantize_config.json", inert("belongs to an .onnx file")),
    ("training_args.*", inert(_TRAINING)),
    ("trainer_state.json", inert(_TRAINING)),
    ("*_results.json", inert(_TRAINING)),
    ("*_results.txt", inert(_TRAINING)),
    ("optimizer.pt", inert(_TRAINING)),
    ("scheduler.pt", inert(_TRAINING)),
    ("scaler.pt", inert(_TRAINING)),
    ("rng_state*.pth", inert(_TRAINING)),
    ("events.out.tfevents.*", inert(_TRAINING)),
    ("data_config.json", inert("where the training data came from")),
    ("chat_template.*", inert("texts are given as they are, not as a conversation")),
    ("model_card*", inert(_DOCUMENT)),
    ("README*", inert(_DOCUMENT)),
    ("LICENSE*", inert(_DOCUMENT)),
    ("LICENCE*", inert(_DOCUMENT)),
    ("NOTICE*", inert(_DOCUMENT)),
    ("USE_POLICY*", inert(_DOCUMENT)),
    ("CITATION*", inert(_DOCUMENT)),
    (".*", inert("a hidden file")),
    *((f"*.{end}", inert(_DOCUMENT)) for end in (
        "md", "rst", "pdf", "html", "log", "png", "jpg", "jpeg", "gif", "svg", "webp", "csv", "tsv",
        "ipynb", "sh", "lock", "zip", "gz",
    )),
)  # fmt: skip
UNKNOWN = ("no file of this name is known to CANAO; move it out of the directory if the model "
           "computes the same without it, or give --ignore {name}")  # fmt: skip
