"""Lesson 04: BERT itself: embeddings, the encoder of lesson 02, the pooler; and real weights in it.

    bert = Bert.from_pretrained(folder)                    # or a name on the Hugging Face Hub
    output = bert(input_ids, attention_mask, token_type_ids)
    output.last_hidden_state, output.pooler_output, output.hidden_states, output.attentions

Its numbers are those of `transformers.BertModel` (tests/test_bert.py, to 1e-5). NAME_MAP says which
tensor of a published file is which of ours.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from course_utils.attention import padding_mask
from course_utils.encoder import Encoder, encoder_layer_parameters, initialize
from course_utils.layers import LayerNorm

ACTIVATIONS = {  # Hugging Face's name: ours
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT, under the names of Hugging Face's `config.json`.

    vocab_size               word pieces; the real vocabulary of bert-base-uncased has 30,522
    hidden_size              width of a token's vector; num_attention_heads must divide it
    intermediate_size        width inside the feed-forward part
    hidden_act               "gelu" (exact), "gelu_new" or "gelu_pytorch_tanh" (tanh form), "relu"
    hidden_dropout_prob      after the embeddings and on what each part adds
    attention_probs_dropout_prob   on the attention weights
    max_position_embeddings  the longest text in tokens: there is no vector for a later position
    type_vocab_size          segments: sentence A and sentence B

    Raises ValueError for sizes that can not be built.
    Source: Devlin et al. 2019, section 3; google-research/bert, `modeling.py`, `BertConfig`.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size",
                     "max_position_embeddings", "type_vocab_size"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number, 1 or more.")
        if not isinstance(self.num_hidden_layers, int) or self.num_hidden_layers < 0:
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers!r}; take 0 or more.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{self.num_attention_heads} heads do not divide a hidden size of "
                f"{self.hidden_size}; take a divisor as num_attention_heads."
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act {self.hidden_act!r} is unknown; take one of {', '.join(ACTIVATIONS)}."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability is in [0, 1].")

    @classmethod
    def base(cls) -> "BertConfig":
        """BERT-base: 12 layers × 768, 12 heads; 109,482,240 parameters."""
        return cls()

    @classmethod
    def large(cls) -> "BertConfig":
        """BERT-large: 24 layers × 1024, 16 heads; 335,141,888 parameters."""
        return cls(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        )

    @classmethod
    def from_folder(cls, folder: Path | str) -> "BertConfig":
        """Read `config.json`; what it leaves out has its default, as in Hugging Face's library.

        Raises ValueError for a file that is missing, is no JSON, or describes another model.
        """
        path = Path(folder) / "config.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} can not be read ({error.strerror}).") from None
        except ValueError:
            raise ValueError(f"{path} is no JSON: it is damaged, fetch it again.") from None
        if not isinstance(found, dict) or found.get("model_type", "bert") != "bert":
            kind = found.get("model_type") if isinstance(found, dict) else type(found).__name__
            raise ValueError(f"{path} describes a {kind!r}, and this class is BERT's.")
        if found.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                f"{path} asks for {found['position_embedding_type']!r} positions; "
                "this BERT has learned absolute ones only."
            )
        if found.get("is_decoder") or found.get("add_cross_attention"):
            raise ValueError(f"{path} describes a decoder; this BERT is an encoder only.")
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in found.items() if name in names}
        return cls(**{name: value for name, value in known.items() if value is not None})

    def save(self, folder: Path | str, architecture: str = "BertModel") -> None:
        """Write `config.json` so that `AutoConfig.from_pretrained(folder)` reads it."""
        values = {"model_type": "bert", "architectures": [architecture]}
        values |= dataclasses.asdict(self)
        text = json.dumps(values, indent=2) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")


class BertEmbeddings(nn.Module):
    """Three look-ups, added up: which piece, at which position, in which segment; then LayerNorm.

    `token` (vocab_size), `position` (max_position_embeddings) and `segment` (type_vocab_size), each
    an `nn.Embedding` of width hidden_size; then `norm` and `dropout`.

    The row of [PAD] is an ordinary row here: the attention mask, not a zero vector, keeps padding
    out, and with a mask that row gets no gradient anyway.

    Source: Devlin et al. 2019, section 3 and figure 2; the LayerNorm and dropout stand only in the
    code (google-research/bert, `modeling.py`, `embedding_postprocessor`).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """input_ids and token_type_ids (batch, tokens), integers; no token_type_ids = all 0
        → (batch, tokens, hidden_size)"""
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        positions = torch.arange(input_ids.size(1), device=input_ids.device)  # (tokens,)
        summed = (
            self.token(input_ids)  # (batch, tokens, hidden_size)
            + self.segment(token_type_ids)  # (batch, tokens, hidden_size)
            + self.position(positions)  # (tokens, hidden_size), the same for every sentence
        )
        return self.dropout(self.norm(summed))


class Pooler(nn.Module):
    """The first token's vector through one more linear layer and tanh.

    It was trained with next-sentence prediction, whose head reads nothing else.

    Source: google-research/bert, `modeling.py`, "pooler". Devlin et al. 2019 do not mention it:
    their C (section 3) is the final hidden vector of [CLS].
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states (batch, tokens, hidden_size) → (batch, hidden_size), each in (−1, 1)"""
        first = hidden_states[:, 0]  # (batch, hidden_size): the vector of [CLS]
        return torch.tanh(self.dense(first))


class BertOutput(NamedTuple):
    """What a `Bert` returns.

    last_hidden_state  (batch, tokens, hidden_size)
    pooler_output      (batch, hidden_size), or None of a BERT without a pooler
    hidden_states      the embeddings and every layer's output, num_hidden_layers + 1 of them
    attentions         every layer's (batch, heads, queries, keys), or None without need_weights
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] | None


class Bert(nn.Module):
    """BERT without a head: embeddings, the encoder of lesson 02, pooler.

    with_pooler  False leaves it out, as under a head that judges tokens (lesson 08), which never
                 reads it; pooler_output is None then

    Source: Devlin et al. 2019, section 3.
    """

    def __init__(self, config: BertConfig, with_pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        same = config.attention_probs_dropout_prob == config.hidden_dropout_prob
        self.encoder = Encoder(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_dropout_prob,
            ACTIVATIONS[config.hidden_act],
            eps=config.layer_norm_eps,
            initializer_range=config.initializer_range,
            attention_dropout=None if same else config.attention_probs_dropout_prob,
        )
        self.pooler = Pooler(config) if with_pooler else None
        initialize(self.embeddings, config.initializer_range)
        if self.pooler is not None:
            initialize(self.pooler, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        need_weights: bool = True,
    ) -> BertOutput:
        """Read a batch of token ids.

        input_ids       (batch, tokens), integers
        attention_mask  (batch, tokens), 1 = a token, 0 = padding; None = no padding
        token_type_ids  (batch, tokens), 0 = sentence A, 1 = sentence B; None = all A
        need_weights    False leaves the attention weights out and takes PyTorch's fused kernel

        Padding is hidden as a key only. As a query a padded position gets numbers too, the same as
        in Hugging Face's model; nobody reads them. A row of padding alone has nothing to attend
        to: its attention is 0 here (Hugging Face's eager model, in float32, spreads it evenly).
        Raises ValueError for a text over max_position_embeddings, an unknown token or segment id,
        and shapes that do not fit, before anything is computed.
        """
        check_input(self.config, input_ids, attention_mask, token_type_ids)
        mask = None if attention_mask is None else padding_mask(attention_mask)
        embedded = self.embeddings(input_ids, token_type_ids)  # (batch, tokens, hidden_size)
        encoded = self.encoder(
            embedded, mask, output_hidden_states=True, output_attentions=need_weights
        )
        return BertOutput(
            encoded.last_hidden_state,
            None if self.pooler is None else self.pooler(encoded.last_hidden_state),
            encoded.hidden_states,
            encoded.attentions,
        )

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: Path | str) -> "Bert":
        """A BERT with the weights of a folder (config.json, model.safetensors) or of a name on the
        Hub, in eval mode.

        The file may be a bare encoder, or one with heads (names that begin with "bert." and
        "cls."); the heads are left aside. Raises ValueError with the names of tensors that are
        missing, unexpected or misshapen, and for a damaged file; OSError when the Hub is not
        reached.
        """
        folder = find_folder(folder_or_hub_name)
        bert = cls(BertConfig.from_folder(folder))
        load_tensors(bert, read_tensors(folder))
        return bert.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors; `AutoModel.from_pretrained(folder)` loads it."""
        save_folder(self, self.config, folder, "BertModel")


def check_input(
    config: BertConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
) -> None:
    """Raise ValueError, with what to do, for input that this BERT can not read."""
    if input_ids.dim() != 2 or input_ids.is_floating_point():
        raise ValueError(
            "input_ids must be (batch, tokens) of integers, not "
            f"{tuple(input_ids.shape)} of {input_ids.dtype}: one text needs [None] in front."
        )
    batch, tokens = input_ids.shape
    if not 1 <= tokens <= config.max_position_embeddings:
        raise ValueError(
            f"the text has {tokens} tokens; this BERT reads 1 to {config.max_position_embeddings}: "
            "truncate it or split it."
        )
    for name, given in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if given is not None and given.shape != input_ids.shape:
            raise ValueError(
                f"{name} {tuple(given.shape)} must have the shape of input_ids, {(batch, tokens)}."
            )
    if torch.compiler.is_compiling() or input_ids.is_meta:
        return  # an exported graph can not branch on values, and a meta tensor has none
    limits = (
        ("token", input_ids, config.vocab_size),
        ("segment", token_type_ids, config.type_vocab_size),
    )
    for name, ids, size in limits:
        if ids is not None and batch and not 0 <= ids.min() <= ids.max() < size:
            raise ValueError(
                f"{name} ids run from {ids.min()} to {ids.max()}; this BERT knows 0 to {size - 1}."
            )


def extended_attention_mask(attention_mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tokenizer's mask in the form that Google's and Hugging Face's code add to the scores.

    attention_mask  (batch, keys), integers or bool, 1 = a token, 0 = padding
    returns         (batch, 1, 1, keys) of `dtype`: 0 for a token, dtype's lowest number for padding

    It says the same as `padding_mask`, True and False, which this course's attention takes. Only a
    row without any token tells them apart: lowest + score is lowest for every key, so softmax
    spreads evenly; minus infinity would give NaN there. Google's code adds −10,000.
    Source: google-research/bert, `modeling.py`, `attention_layer`; Hugging Face Transformers,
    `get_extended_attention_mask`.
    """
    hidden = ~padding_mask(attention_mask)  # (batch, 1, 1, keys), True = padding
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(
        hidden, torch.finfo(dtype).min
    )


# --- Real weights ---------------------------------------------------------------------------------

NAME_MAP = [  # (ours, Hugging Face's); a line stands for a weight and, where there is one, a bias
    ("embeddings.token", "embeddings.word_embeddings"),
    ("embeddings.position", "embeddings.position_embeddings"),
    ("embeddings.segment", "embeddings.token_type_embeddings"),
    ("embeddings.norm", "embeddings.LayerNorm"),
    ("encoder.layers.{n}.attention.query", "encoder.layer.{n}.attention.self.query"),
    ("encoder.layers.{n}.attention.key", "encoder.layer.{n}.attention.self.key"),
    ("encoder.layers.{n}.attention.value", "encoder.layer.{n}.attention.self.value"),
    ("encoder.layers.{n}.attention.output", "encoder.layer.{n}.attention.output.dense"),
    ("encoder.layers.{n}.attention_norm", "encoder.layer.{n}.attention.output.LayerNorm"),
    ("encoder.layers.{n}.feed_forward.expand", "encoder.layer.{n}.intermediate.dense"),
    ("encoder.layers.{n}.feed_forward.contract", "encoder.layer.{n}.output.dense"),
    ("encoder.layers.{n}.feed_forward_norm", "encoder.layer.{n}.output.LayerNorm"),
    ("pooler.dense", "pooler.dense"),
    ("mlm.dense", "cls.predictions.transform.dense"),  # from here on the heads of lesson 05
    ("mlm.norm", "cls.predictions.transform.LayerNorm"),
    ("mlm.bias", "cls.predictions.bias"),
    ("nsp.dense", "cls.seq_relationship"),
    ("classifier", "classifier"),  # lessons 06 and 08: a head for sentences, or for tokens
    ("qa_outputs", "qa_outputs"),  # lesson 08: where an answer starts and ends
    ("intent_classifier", "intent_classifier"),  # ours: Hugging Face has no joint model
]
# what a model may do without; it is left aside then
HEADS = ("pooler.", "mlm.", "nsp.", "classifier.", "qa_outputs.", "intent_classifier.")
OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}  # how Google named LayerNorm's parameters
NOT_LEARNED = ("embeddings.position_ids", "embeddings.token_type_ids")  # 0, 1, 2, … in old files
TIED = {  # the same numbers under a second name
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def translate(name: str, name_map: Sequence[tuple[str, str]], to: str) -> str | None:
    """A tensor's name in the other language, or None where no line of the map fits.

    to="ours" reads the map from right to left, to="theirs" from left to right. A "bert." in front
    is passed over.
    """
    for ours, theirs in name_map:
        source, target = (theirs, ours) if to == "ours" else (ours, theirs)
        pattern = re.escape(source).replace(re.escape("{n}"), r"(?P<n>\d+)")
        found = re.fullmatch(rf"{pattern}(?P<end>\.weight|\.bias|)", name.removeprefix("bert."))
        if found:
            return target.replace("{n}", found.groupdict().get("n") or "") + found["end"]
    return None


def load_tensors(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    name_map: Sequence[tuple[str, str]] = NAME_MAP,
) -> None:
    """Copy the tensors of a published file, named as there, into the module's parameters.

    module    a `Bert`, or a module that holds one as `bert`, with heads beside it
    tensors   Hugging Face's names; a "bert." in front and the old endings gamma and beta are fine
    name_map  (ours, theirs) a line, see NAME_MAP

    Heads in the file that the module does not have are left aside; every other tensor must find
    its place. Raises ValueError that names what is missing, unexpected or misshapen; the module is
    not touched then.
    """
    wanted = {name.removeprefix("bert."): p for name, p in module.named_parameters()}
    has_mlm_head = any(name.startswith("mlm.") for name in wanted)
    given, problems = {}, []
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("bert.")
        for old, new in OLD_ENDINGS.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if name in NOT_LEARNED:
            continue
        if name in TIED:
            if has_mlm_head and not is_tied(name, tensor, tensors):
                problems.append(f"unexpected: {full_name} is not {TIED[name]} once more")
            continue
        ours = translate(name, name_map, to="ours")
        if ours in wanted:
            given[ours] = tensor
            if tensor.shape != wanted[ours].shape:
                problems.append(
                    f"misshapen: {full_name} is {tuple(tensor.shape)}, "
                    f"the model needs {tuple(wanted[ours].shape)}"
                )
        elif ours is None or not ours.startswith(HEADS):
            problems.append(f"unexpected: {full_name}")
    for ours in wanted:
        if ours not in given:
            problems.append(f"missing: {translate(ours, name_map, to='theirs') or ours}")
    if problems:
        raise ValueError(f"the weights do not fit the model; {'; '.join(sorted(problems))}.")
    with torch.no_grad():
        for ours, tensor in given.items():
            wanted[ours].copy_(tensor)  # also from fp16 to the parameter's own dtype


def is_tied(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Does this tensor repeat the one it is tied to? Where that one is not in the file: yes."""
    first = tensors.get(TIED[name], tensors.get("bert." + TIED[name]))
    return first is None or torch.equal(first, tensor)


def published_tensors(
    module: nn.Module, name_map: Sequence[tuple[str, str]] = NAME_MAP
) -> dict[str, Tensor]:
    """The module's parameters under Hugging Face's names: what `load_tensors` takes back in."""
    tensors = {}
    for name, parameter in module.named_parameters():
        theirs = translate(name, name_map, to="theirs")
        if theirs is None:
            raise ValueError(f"no line of the name map fits {name}; add one.")
        prefix = "bert." if name.startswith("bert.") else ""
        tensors[prefix + theirs] = parameter.detach().contiguous()
    return tensors


def read_tensors(folder: Path | str) -> dict[str, Tensor]:
    """The tensors of a folder's model.safetensors. Raises ValueError if it is missing or broken."""
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no model.safetensors. From an older pytorch_model.bin it is made with "
            "AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again.") from None


def save_folder(
    module: nn.Module, config: BertConfig, folder: Path | str, architecture: str
) -> None:
    """Write a model in Hugging Face's layout; `architecture` is the name of their class."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(published_tensors(module), folder / "model.safetensors", metadata={"format": "pt"})
    config.save(folder, architecture)


def find_folder(folder_or_hub_name: Path | str) -> Path:
    """A local folder as it is; else a name such as "google-bert/bert-base-uncased", from the Hub.

    Raises ValueError for what can be neither, OSError when the Hub does not give it.
    """
    folder = Path(folder_or_hub_name).expanduser()
    if folder.is_dir():
        return folder
    name = str(folder_or_hub_name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ValueError(f"{name} is neither a folder nor a name on the Hub (owner/model).")
    from huggingface_hub import snapshot_download  # needed here only

    try:
        wanted = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # dozens of kinds: no network, no such model, no permission, …
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise OSError(
            f"there is no folder {name}, and the Hub does not give it "
            f"({type(error).__name__}: {reason[:120]}); check the name or the network."
        ) from None


# --- Sizes ----------------------------------------------------------------------------------------


def bert_parameters(config: BertConfig) -> int:
    """Learned numbers of a BERT with pooler; 109,482,240 for base, 335,141,888 for large."""
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    embeddings = rows * config.hidden_size + 2 * config.hidden_size  # and their LayerNorm
    layer = encoder_layer_parameters(config.hidden_size, config.intermediate_size)
    pooler = config.hidden_size * config.hidden_size + config.hidden_size
    return embeddings + config.num_hidden_layers * layer + pooler
