"""course_utils/joint.py: one encoder, an intent and slots."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from course_utils.bert import BertConfig
from course_utils.finetuning import FineTuning, fine_tune, predict
from course_utils.joint import Assistant, BertForIntentAndSlots, joint_features
from course_utils.token_classification import read_words, spans_to_tags, tag_features, tag_names

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] move pay 20 dollars to sav ##ings my where is card".split()
SMALL = dict(vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=32, max_position_embeddings=40)  # fmt: skip
TAGS, INTENTS = tag_names(["amount", "account"]), ["move", "find", "pay"]


@pytest.fixture(scope="module")
def tokenizer():
    found = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    found.normalizer = normalizers.BertNormalizer()
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found


def small_model(share=0.5):
    torch.manual_seed(0)
    config = BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertForIntentAndSlots(config, INTENTS, TAGS, share).eval()


def batch():
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (3, 7))
    labels[:, 0] = -100
    return dict(input_ids=torch.randint(5, len(PIECES), (3, 7)), labels=labels,
                intent=torch.tensor([0, 2, 1]))  # fmt: skip


def test_the_loss_is_the_mean_of_both():
    inputs = batch()
    model = small_model()
    output = model(**inputs)
    slots, intents = model.split(output.logits)
    assert slots.shape == (3, 7, 5) and intents.shape == (3, 3)
    slot_loss = F.cross_entropy(slots.flatten(0, 1), inputs["labels"].flatten())
    intent_loss = F.cross_entropy(intents, inputs["intent"])
    torch.testing.assert_close(output.loss, 0.5 * slot_loss + 0.5 * intent_loss)
    torch.testing.assert_close(small_model(1.0)(**inputs).loss, slot_loss)
    torch.testing.assert_close(small_model(0.0)(**inputs).loss, intent_loss)
    assert model(inputs["input_ids"]).loss is None


def test_both_heads_move_the_one_encoder():
    for share in (0.0, 1.0):
        model = small_model(share)
        model(**batch()).loss.backward()
        assert model.bert.embeddings.token.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="slot_share is 1.5"):
        small_model(1.5)


def test_a_saved_model_comes_back_whole(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    again = BertForIntentAndSlots.from_pretrained(tmp_path)
    assert again.intents == INTENTS and again.labels == TAGS
    inputs = batch()["input_ids"]
    torch.testing.assert_close(again(inputs).logits, model(inputs).logits)


def test_hugging_face_reads_encoder_and_slots_of_it(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    theirs, found = transformers.BertForTokenClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not found["missing_keys"]
    inputs = batch()["input_ids"]
    with torch.no_grad():
        want = theirs.eval()(inputs).logits
        torch.testing.assert_close(model.split(model(inputs).logits)[0], want)


def test_another_model_s_folder_is_refused(tmp_path):
    BertConfig(**SMALL).save(tmp_path)
    with pytest.raises(ValueError, match="no joint model"):
        BertForIntentAndSlots.from_pretrained(tmp_path)


def test_it_learns_to_understand(tokenizer):
    texts = ["move 20 dollars to savings", "where is my card", "pay 20 dollars"]
    texts += ["move 20 to my savings"]
    spans = [[(5, 15, "amount"), (19, 26, "account")], [], [(4, 14, "amount")],
             [(5, 7, "amount"), (14, 21, "account")]]  # fmt: skip
    words = read_words(tokenizer, texts)
    tags = [spans_to_tags(row, one.offsets) for row, one in zip(spans, words)]
    features = joint_features(tag_features(words, tags, TAGS), [0, 1, 2, 0])
    model = small_model()
    fine_tune(model, features, FineTuning(epochs=50, batch_size=4, learning_rate=1e-2),
              progress=False)  # fmt: skip
    understood = Assistant(model, tokenizer)(texts)
    assert [one.intent for one in understood] == ["move", "find", "pay", "move"]
    assert [one.spans for one in understood] == spans
    assert all(one.confidence > 0.5 for one in understood)
    logits = predict(model, features)  # labels and intents in the examples are not read
    assert logits[1].shape == (6, 8)
