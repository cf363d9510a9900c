"""The encoder of lesson 00: the pretrained one, or a small random one where there is no network."""

import torch
from tokenizers import BertWordPieceTokenizer
from tokenizers.processors import BertProcessing
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging

from course_utils.data.weights import WeightsUnavailable, pretrained_encoder


def first_encoder(sentences: list[str]) -> tuple:
    """(tokenizer, model, pretrained): the verified all-MiniLM-L6-v2 in eval mode, with attention.

    Where it is neither in the cache nor to be fetched, a BERT of 2 layers with random weights
    stands in, with word pieces trained on `sentences`: every cell still runs, and `pretrained` is
    False.
    """
    logging.disable_progress_bar()
    try:
        folder = pretrained_encoder()
    except WeightsUnavailable:
        print("No network and no pretrained encoder yet: a small random one stands in.")
        print(
            "Every cell runs; what it says of meaning is noise. `python3 course.py lab` fetches it."
        )
        return *_random_encoder(sentences), False
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # "eager" computes attention weights in plain sight; the default, fused kernel never has them.
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    layers, size = model.config.num_hidden_layers, sum(p.numel() for p in model.parameters())
    print(f"all-MiniLM-L6-v2: {layers} layers, {size:,} parameters, sha256 verified")
    return tokenizer, model, True


def _random_encoder(sentences: list[str]) -> tuple[PreTrainedTokenizerFast, BertModel]:
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(sentences, vocab_size=500, show_progress=False)
    sep, cls = [(token, pieces.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    pieces.post_processor = BertProcessing(sep, cls)  # trained, it would add neither by itself
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, unk_token="[UNK]", pad_token="[PAD]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    return tokenizer, BertModel(config).eval()
