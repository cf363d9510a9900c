from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import augmentation
from course_utils.augmentation import (
    EmbeddingNeighbours,
    TinyBertCandidates,
    add_typos,
    augment_texts,
    delete_words,
    eda,
    insert_words,
    mixed_embeddings,
    mixup_backward,
    mlm_substitute,
    mlm_substitutes,
    replace_words,
    splice,
    split_words,
    swap_words,
    tinybert_augment,
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


# --- TinyBERT's augmentation ----------------------------------------------------------------------

SETTINGS = settings(max_examples=60, deadline=None)
CHOICES = {"cancel": ["stop", "end", "void"], "big": ["large"], "card": ["slip", "pass"]}
TEXT = "please cancel my big red card now"


def choices(words, place):
    return CHOICES.get(words[place], [])


@pytest.fixture(scope="module")
def docs():
    return BertForPreTraining.from_pretrained(docs_bert()), load_tokenizer(docs_bert())


@given(st.text("ab c'?!.-$£é’\n", max_size=20))
@SETTINGS
def test_split_words_give_bert_the_same_pieces(text):
    tokenizer = load_tokenizer(docs_bert())
    assert tokenizer.encode(" ".join(split_words(text))).ids == tokenizer.encode(text).ids


def test_punctuation_stands_for_itself_and_apostrophes_stay_inside():
    found = split_words("It isn't my card, pay £80 or $9.50?")
    assert found == "It isn't my card , pay £80 or $ 9 . 50 ?".split()


def test_only_words_with_candidates_are_replaced_and_only_by_those():
    for seed in range(20):
        found = tinybert_augment(TEXT, choices, 0.6, seeded(seed)).split()
        for before, after in zip(TEXT.split(), found, strict=True):
            assert after == before or after in CHOICES[before]
    assert tinybert_augment(TEXT, choices, 0.0, seeded()) == TEXT
    everything = tinybert_augment(TEXT, choices, 1.0, seeded()).split()
    assert [a != b for a, b in zip(TEXT.split(), everything)] == [0, 1, 0, 1, 0, 1, 0]


def test_each_word_is_replaced_with_the_probability_and_candidates_are_drawn_evenly():
    text = " ".join(["card"] * 4000)
    found = Counter(tinybert_augment(text, choices, 0.4, seeded()).split())
    assert 0.57 < found["card"] / 4000 < 0.63
    assert 0.17 < found["slip"] / 4000 < 0.23 and 0.17 < found["pass"] / 4000 < 0.23


def test_candidates_are_asked_about_the_text_as_it_was():
    asked = []

    def record(words, place):
        asked.append((tuple(words), place))
        return ["x"]

    tinybert_augment("a b c", record, 1.0)
    assert asked == [(("a", "b", "c"), place) for place in range(3)]


def test_a_version_depends_on_the_generator_alone():
    state = torch.get_rng_state()
    first = augment_texts([TEXT, "big card"], 5, choices, 0.4, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert augment_texts([TEXT, "big card"], 5, choices, 0.4, seeded(3)) == first
    assert augment_texts([TEXT, "big card"], 5, choices, 0.4, seeded(4)) != first


def test_augmented_texts_follow_their_original_without_duplicates():
    found = augment_texts([TEXT, "no, thanks"], 20, choices, 0.4, seeded())
    assert found.texts[0] == TEXT and found.texts[-1] == "no, thanks"
    assert len(set(found.texts)) == len(found.texts) == len(found.sources)
    assert found.sources == sorted(found.sources) and set(found.sources) == {0, 1}
    for text, source in zip(found.texts, found.sources):
        assert len(split_words(text)) == len(split_words([TEXT, "no, thanks"][source]))
    assert len(found.texts) + found.duplicates == 2 * 21
    assert found.duplicates > 20  # nothing in the second text can be replaced
    assert augment_texts([TEXT], 0, choices) == ([TEXT], [0], 0)


def test_what_can_not_be_augmented_is_refused():
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        tinybert_augment(TEXT, choices, 1.5)
    with pytest.raises(ValueError, match="no word"):
        tinybert_augment(" ", choices)
    with pytest.raises(ValueError, match="times is -1"):
        augment_texts([TEXT], -1, choices)


def test_a_word_of_one_piece_asks_the_masked_model_any_other_the_table(docs):
    model, tokenizer = docs
    words = "return the number of elements in the landlord 7 ?".split()
    assert len(tokenizer.encode("landlord", add_special_tokens=False).ids) > 1
    near = {"landlord": ["tenant", "owner", "host"], "elements": ["never"]}
    candidates = TinyBertCandidates(model, tokenizer, lambda word: near[word], count=2)
    assert candidates(words, 7) == ["tenant", "owner"]
    masked = mlm_substitutes(model, tokenizer, words, 4, count=2)
    assert candidates(words, 4) == [word for word, _ in masked] and len(masked) == 2
    for place in (1, 8, 9):  # a stop word, a number, a mark
        assert candidates(words, place) == []


def test_the_copies_of_a_text_do_not_ask_twice(docs, monkeypatch):
    calls = []
    monkeypatch.setattr(
        augmentation, "mlm_substitutes", lambda *given: calls.append(given) or [("x", 0.5)]
    )
    candidates = TinyBertCandidates(*docs, lambda word: [])
    augment_texts(["return the number"], 20, candidates, 0.9, seeded())
    assert len(calls) == 2  # return, number


def test_of_a_long_text_the_words_around_the_place_are_read(docs):
    model, tokenizer = docs
    words = ("return the number of elements " * 30).split()
    candidates = TinyBertCandidates(model, tokenizer, lambda word: [], count=3)
    assert candidates(words, 4) and candidates(words, 149) and candidates(words, 72)
    window = candidates.window(words, 72)
    ids = tokenizer.encode(" ".join(words[window])).ids
    limit = model.config.max_position_embeddings
    assert limit - 4 <= len(ids) <= limit and window.start < 72 < window.stop
    assert candidates.window(words[:9], 2) == slice(0, 12)


def test_a_word_of_several_pieces_is_looked_up_by_their_mean():
    tokenizer = load_tokenizer(docs_bert())
    vocabulary = tokenizer.get_vocab()
    torch.manual_seed(0)
    table = torch.randn(len(vocabulary), 16)
    pieces = tokenizer.encode("landlord", add_special_tokens=False).ids
    table[vocabulary["array"]] = table[pieces].mean(0)
    near = EmbeddingNeighbours(tokenizer, table, count=1, average=True)
    assert near("landlord") == ["array"]
    assert EmbeddingNeighbours(tokenizer, table, count=1)("landlord") == []
    assert near("☃") == [] and near("") == [] and near("about") == []
    plain = EmbeddingNeighbours(tokenizer, table, count=3, least=-1.0)
    averaged = EmbeddingNeighbours(tokenizer, table, count=3, least=-1.0, average=True)
    assert averaged("list") == plain("list")  # a word of one piece is looked up as before


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
