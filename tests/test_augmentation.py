from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from course_utils.augmentation import (
    EmbeddingNeighbours,
    add_typos,
    delete_words,
    eda,
    insert_words,
    mixed_embeddings,
    mixup_backward,
    mlm_substitute,
    mlm_substitutes,
    replace_words,
    splice,
    swap_words,
)
from course_utils.bert import BertConfig
from course_utils.data.stored import docs_bert
from course_utils.finetuning import BertForSequenceClassification, load_tokenizer
from course_utils.pretraining import BertForPreTraining

WORDS = "please cancel my big red card now".split()
TABLE = {"big": ["large", "huge"], "cancel": ["stop"]}


def synonyms(word):
    return TABLE.get(word, [])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_replacing_touches_only_words_with_synonyms():
    for seed in range(20):
        found = replace_words(WORDS, 1, synonyms, seeded(seed))
        changed = [(a, b) for a, b in zip(WORDS, found) if a != b]
        assert len(found) == len(WORDS) and len(changed) == 1
        assert changed[0][1] in TABLE[changed[0][0]]
    assert replace_words(WORDS, 9, synonyms, seeded())[1] == "stop"


def test_inserting_keeps_every_word_in_order():
    found = insert_words(WORDS, 2, synonyms, seeded())
    added = Counter(found) - Counter(WORDS)
    assert sum(added.values()) == 2 and set(added) <= {"large", "huge", "stop"}
    assert [word for word in found if word in WORDS] == WORDS


def test_swapping_keeps_the_words():
    found = swap_words(WORDS, 1, seeded())
    assert Counter(found) == Counter(WORDS)
    assert sum(a != b for a, b in zip(found, WORDS)) == 2
    assert swap_words(["one"], 3, seeded()) == ["one"]


def test_deleting_leaves_out_the_share_and_never_everything():
    many = [str(i) for i in range(4000)]
    assert 0.17 < 1 - len(delete_words(many, 0.2, seeded())) / 4000 < 0.23
    assert delete_words(WORDS, 0.0, seeded()) == WORDS
    assert len(delete_words(WORDS, 1.0, seeded())) == 1


def test_eda_is_repeatable_and_uses_all_four():
    text = " ".join(WORDS)
    found = [eda(text, synonyms, 0.2, seeded(seed)) for seed in range(40)]
    assert found == [eda(text, synonyms, 0.2, seeded(seed)) for seed in range(40)]
    lengths = {len(one.split()) for one in found}
    assert len(WORDS) in lengths and min(lengths) < len(WORDS) < max(lengths)
    with pytest.raises(ValueError, match="no word"):
        eda("  ", synonyms)


def test_neighbours_are_whole_words_other_than_itself():
    tokenizer = load_tokenizer(docs_bert())
    torch.manual_seed(0)
    table = torch.randn(tokenizer.get_vocab_size(), 16)
    vocabulary = tokenizer.get_vocab()
    table[vocabulary["array"]] = table[vocabulary["list"]] + 0.1
    near = EmbeddingNeighbours(tokenizer, table, count=3, least=0.8)
    assert near("list") == ["array"] and near("array") == ["list"]
    assert near("the") == [] and near("notaword") == []


def test_mlm_substitutes_read_the_context():
    model = BertForPreTraining.from_pretrained(docs_bert())
    tokenizer = load_tokenizer(docs_bert())
    words = "return the number of elements in the graph".split()
    found = mlm_substitutes(model, tokenizer, words, 4, count=5)
    assert "elements" not in dict(found) and "nodes" in dict(found)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    made = mlm_substitute(model, tokenizer, " ".join(words), 1, seeded())
    assert sum(a != b for a, b in zip(made.split(), words)) == 1


# --- Mixup ----------------------------------------------------------------------------------------

CONFIG = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
BATCH = {
    "input_ids": torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0], [2, 11, 12, 3]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
    "labels": torch.tensor([1, 0, 1]),
}


def test_embeddings_are_mixed_inside_and_plain_again_outside():
    torch.manual_seed(0)
    embeddings = BertForSequenceClassification(CONFIG, ["a", "b"]).eval().bert.embeddings
    plain = embeddings(BATCH["input_ids"])
    partner = torch.tensor([1, 2, 0])
    with pytest.raises(RuntimeError), mixed_embeddings(embeddings, partner, 0.3):
        found = embeddings(BATCH["input_ids"])
        raise RuntimeError
    torch.testing.assert_close(found, 0.3 * plain + 0.7 * plain[partner])
    torch.testing.assert_close(embeddings(BATCH["input_ids"]), plain)


def test_mixup_mixes_the_losses_in_the_same_shares(monkeypatch):
    torch.manual_seed(0)
    model = BertForSequenceClassification(CONFIG, ["a", "b"]).eval()
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor([1, 2, 0]))
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(0.3))
    found = mixup_backward(model, BATCH)
    partner = torch.tensor([1, 2, 0])
    mask = BATCH["attention_mask"] | BATCH["attention_mask"][partner]
    with mixed_embeddings(model.bert.embeddings, partner, 0.3):
        logits = model(BATCH["input_ids"], mask).logits
    labels = BATCH["labels"]
    expected = 0.3 * F.cross_entropy(logits, labels) + 0.7 * F.cross_entropy(
        logits, labels[partner]
    )
    torch.testing.assert_close(found, expected.detach())
    assert model.classifier.weight.grad is not None


# --- Typos ----------------------------------------------------------------------------------------


def test_typos_hit_long_words_within_and_leave_the_rest():
    text = "my card was stolen yesterday in the supermarket"
    for seed in range(30):
        found = add_typos(text, 1.0, seeded(seed)).split(" ")
        for before, after in zip(text.split(" "), found, strict=True):
            assert after[0] == before[0] and abs(len(after) - len(before)) <= 1
            if len(before) < 4:
                assert after == before
    assert add_typos(text, 0.0, seeded()) == text


def test_the_rate_is_that_of_the_long_words():
    words = ["abcdefgh"] * 3000
    found = add_typos(" ".join(words), 0.3, seeded()).split(" ")
    assert 0.26 < sum(a != b for a, b in zip(words, found)) / 3000 < 0.34


def test_a_splice_begins_as_one_text_and_ends_as_another():
    texts = ["a b c", "d e", "f"]
    made = splice(texts, 200, torch.Generator().manual_seed(0))
    assert made == splice(texts, 200, torch.Generator().manual_seed(0)) and len(set(made)) > 15
    starts = {" ".join(t.split()[: i + 1]) for t in texts for i in range(len(t.split()))}
    ends = {" ".join(t.split()[i:]) for t in texts for i in range(len(t.split()))}
    assert set(made) <= {f"{a} {b}" for a in starts for b in ends}
    with pytest.raises(ValueError, match="at least a word"):
        splice(["a", " "], 1)
