"""Lesson 05's loop and command: same batches always, resume, several processes, bad input."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForPreTraining, AutoTokenizer

from course_utils.data.docs import Corpus, Document, train_tokenizer
from course_utils.pretraining import IGNORE, BertForPreTraining
from course_utils.pretraining_run import (
    Batches,
    Recipe,
    evaluate,
    main,
    make_optimizer,
    pretrain,
    start_local,
)

WHO = ["The old dog", "A young cat", "My neighbour", "The tall teacher", "Our cook", "A farmer"]
DOES = ["looks for", "likes", "walks past", "paints", "often dreams of", "sells"]
WHAT = ["the red house", "a small boat", "the long river", "two green apples", "an empty street"]


def sentence(i: int) -> str:
    return f"{WHO[i % 6]} {DOES[i // 6 % 6]} {WHAT[i // 36 % 5]} every single day."


CORPUS = Corpus(
    [Document(f"story {d}", "made up", [sentence(7 * d + i) for i in range(8)]) for d in range(60)],
    {},
    [],
)
TOKENIZER = train_tokenizer(CORPUS.sentences(), 120)
TINY = Recipe(
    steps=12, layers=1, hidden_size=32, heads=2, max_length=40, batch_tokens=400, dropout=0.1
)


def losses(run):
    return [row["mlm_loss"] for row in run.history]


def test_batches_are_the_same_whatever_was_asked_before():
    first, second = Batches(CORPUS, TOKENIZER, TINY), Batches(CORPUS, TOKENIZER, TINY)
    epoch = len(first.epoch(0))
    second[2 * epoch + 1], second[0]  # another way through
    for index in (0, epoch, 3, epoch + 3):
        for one, other in zip(
            first[index][0] + first[index][1:], second[index][0] + second[index][1:]
        ):
            assert torch.equal(one, other)
    assert not torch.equal(first[0][1], Batches(CORPUS, TOKENIZER, replace(TINY, seed=1))[0][1])


def test_an_epoch_holds_every_sentence_with_a_successor_within_the_token_budget():
    batches = Batches(CORPUS, TOKENIZER, TINY)
    epoch = [batches[i][0] for i in range(len(batches.epoch(0)))]
    assert sum(len(batch.input_ids) for batch in epoch) == 60 * 7
    assert all(batch.input_ids.numel() <= TINY.batch_tokens for batch in epoch)


def test_the_next_epoch_draws_new_pairs():
    batches = Batches(CORPUS, TOKENIZER, TINY)
    number = len(batches.epoch(0))
    epochs = []
    for start in (0, number):
        rows = [ids for i in range(number) for ids in batches[start + i][0].input_ids.tolist()]
        epochs.append({tuple(token for token in ids if token) for ids in rows})  # without padding
    assert len(epochs[0] & epochs[1]) < 0.8 * len(epochs[0])


def test_a_sentence_is_masked_elsewhere_in_the_next_epoch():
    batches = Batches(CORPUS, TOKENIZER, TINY)
    seen = {}
    for index in range(2 * len(batches.epoch(0))):
        batch, masked, _ = batches[index]
        for ids, hidden in zip(batch.input_ids.tolist(), masked.tolist()):
            first = tuple(ids[: ids.index(3)])
            seen.setdefault(first, set()).add(tuple(hidden[: len(first)]))
    assert sum(len(versions) for versions in seen.values()) > 1.5 * len(seen)


def test_short_training_beats_the_unigram_baseline():
    recipe = replace(TINY, steps=200, hidden_size=48, learning_rate=5e-3, dropout=0.0)
    run = pretrain(recipe, CORPUS, TOKENIZER, progress=False)
    batches = Batches(CORPUS, TOKENIZER, replace(recipe, seed=5))
    scores = evaluate(run.model, batches, batches.token_counts())
    assert scores.mlm_loss < 0.8 * scores.unigram_loss
    assert scores.masked_accuracy > 2 * scores.unigram_accuracy
    assert scores.perplexity == pytest.approx(torch.tensor(scores.mlm_loss).exp().item(), rel=1e-4)
    assert [row["step"] for row in run.history] == list(range(1, recipe.steps + 1))


def test_frequencies_in_the_bias_start_at_the_unigram_loss():
    start = pretrain(replace(TINY, steps=1, dropout=0.0), CORPUS, TOKENIZER, progress=False)
    batches = Batches(CORPUS, TOKENIZER, TINY)
    untrained = BertForPreTraining(TINY.config(TOKENIZER.get_vocab_size()))
    counts = batches.token_counts()
    scores = evaluate(untrained, batches, counts)
    assert start.history[0]["mlm_loss"] == pytest.approx(scores.unigram_loss, abs=0.15)
    assert scores.mlm_loss > scores.unigram_loss + 0.4  # ln 120, without them


def test_a_local_start_looks_at_neighbours_and_at_equal_tokens():
    recipe = Recipe(layers=1, local_start=True)
    torch.manual_seed(0)
    model = BertForPreTraining(recipe.config(100)).eval()
    start_local(model)
    tokens = torch.arange(5, 65)[None]  # 60 tokens, all different
    tokens[0, 40] = tokens[0, 10]  # but for one pair, far apart
    weights = model.bert(tokens).attentions[0].mean(1)[0]  # (queries, keys), mean over heads
    near = weights.diagonal(1).mean() + weights.diagonal(-1).mean()
    far = weights.diagonal(15).mean() + weights.diagonal(-15).mean()
    assert near > 1.2 * far
    assert weights[10, 40] > 1.25 * weights[10, 41:50].mean()
    assert weights[40, 10] > 1.25 * weights[40, 11:20].mean()


def test_a_run_killed_in_the_middle_goes_on_to_the_same_curve(tmp_path):
    whole = pretrain(TINY, CORPUS, TOKENIZER, progress=False)
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_pretraining_run as t, pathlib, torch;"
        "from course_utils import pretraining_run as run; torch.set_num_threads(1);"
        "step = run.train_step;"
        "run.train_step = lambda number, *rest: step(number, *rest) if number < 8 else"
        " (print('at step 8', flush=True), __import__('time').sleep(60));"
        "run.pretrain(t.TINY, t.CORPUS, t.TOKENIZER, pathlib.Path(sys.argv[1]),"
        " checkpoint_every=3, progress=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "at step 8\n"
    process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    process.wait()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["history"]) == 6  # the steps since are lost, and done again
    resumed = pretrain(TINY, CORPUS, TOKENIZER, tmp_path, progress=False)
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_a_run_may_be_made_longer(tmp_path):
    short = replace(TINY, steps=4)
    pretrain(short, CORPUS, TOKENIZER, tmp_path, checkpoint_every=2, progress=False)
    longer = pretrain(TINY, CORPUS, TOKENIZER, tmp_path, progress=False)
    whole = pretrain(TINY, CORPUS, TOKENIZER, progress=False)
    assert [row["step"] for row in longer.history] == list(range(1, TINY.steps + 1))
    rates = [[row["learning_rate"] for row in run.history] for run in (longer, whole)]
    assert rates[0][:4] != rates[1][:4] and rates[0][5:] == pytest.approx(rates[1][5:])


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pretrain(replace(TINY, steps=2), CORPUS, TOKENIZER, progress=False)
    assert torch.equal(torch.rand(2), expected)


def test_accumulated_gradients_are_the_mean_over_their_batches():
    recipe = replace(TINY, steps=1, accumulate=3, dropout=0.0, clip=1e9, warmup=0.0)
    run = pretrain(recipe, CORPUS, TOKENIZER, progress=False)
    batches = Batches(CORPUS, TOKENIZER, recipe)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = BertForPreTraining(recipe.config(batches.vocab_size))
    counts = batches.token_counts().float() + 1
    model.mlm.bias.data = (counts / counts.sum()).log()
    for index in range(3):
        batch, masked, labels = batches[index]
        output = model(
            masked, batch.attention_mask, batch.token_type_ids, labels, batch.next_sentence_label
        )
        (output.loss / 3).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert run.history[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo on Windows is not tried here")
def test_two_processes_take_the_steps_of_one(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sentence(i) for i in range(3000)))
    options = "--steps 4 --layers 1 --hidden-size 16 --heads 2 --vocab-size 100 --max-length 40"
    options += f" --batch-tokens 200 --accumulate 2 --device cpu --text {text} --output "
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = {}
    for name, launcher in (
        ("one", "-m course_utils.pretraining"),
        ("two", "-m torch.distributed.run --standalone --nproc-per-node 2"
         " -m course_utils.pretraining"),
    ):  # fmt: skip
        command = [sys.executable, *f"{launcher} {options}{tmp_path / name}".split()]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        runs[name] = json.loads((tmp_path / name / "run.json").read_text())["history"]
    for one, two in zip(runs["one"], runs["two"], strict=True):
        assert two["mlm_loss"] == pytest.approx(one["mlm_loss"], abs=1e-4)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
        assert two["tokens"] == one["tokens"]


def test_the_command_leaves_a_folder_that_hugging_face_loads(tmp_path, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "model"
    text.write_text("\n".join(sentence(i) for i in range(3000)))
    main(
        f"--text {text} --output {out} --steps 2 --layers 1 --hidden-size 16 --heads 2 --device cpu"
        f" --vocab-size 100 --max-length 40 --batch-tokens 200 --fp16-weights".split()
    )
    assert "held out: loss" in capsys.readouterr().out
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"]["steps"] == 2 and len(record["history"]) == 2
    assert record["scores"]["masked_tokens"] > 0
    ours = BertForPreTraining.from_pretrained(out)
    theirs = AutoModelForPreTraining.from_pretrained(out, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(out)("The old dog.", sentence(1), return_tensors="pt")
    assert tokens["token_type_ids"].sum() > 0
    with torch.no_grad():
        expected = theirs(**tokens)
        found = ours(tokens["input_ids"], tokens["attention_mask"], tokens["token_type_ids"])
    torch.testing.assert_close(found.mlm_logits, expected.prediction_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        found.nsp_logits, expected.seq_relationship_logits, atol=1e-4, rtol=1e-4
    )


def test_no_decay_on_biases_and_layer_norms():
    model = BertForPreTraining(TINY.config(120))
    optimizer, _ = make_optimizer(model, TINY)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        expected = 0.0 if name.endswith("bias") or "norm" in name else TINY.weight_decay
        assert decay[id(parameter)] == expected, name


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(steps=0), "steps is 0"),
        (dict(warmup=1.0), "warmup is 1.0"),
        (dict(probability=0.0), "probability is 0.0"),
        (dict(probability=-0.1), "probability is -0.1"),
        (dict(batch_tokens=10), "batch_tokens is 10"),
    ],
)
def test_a_recipe_that_can_not_work_is_refused_before_it_starts(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_a_vocabulary_without_mask_is_named():
    tokenizer = type(TOKENIZER).from_str(TOKENIZER.to_str().replace("[MASK]", "[NONE]"))
    with pytest.raises(ValueError, match=r"no \[MASK\]"):
        pretrain(TINY, CORPUS, tokenizer, progress=False)


def test_checkpoints_of_another_recipe_or_damaged_are_refused(tmp_path):
    pretrain(
        replace(TINY, steps=2), CORPUS, TOKENIZER, tmp_path, checkpoint_every=1, progress=False
    )
    with pytest.raises(ValueError, match="with clip=1.0, this one has 0.5"):
        pretrain(replace(TINY, clip=0.5), CORPUS, TOKENIZER, tmp_path, progress=False)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="checkpoint.pt is damaged"):
        pretrain(replace(TINY, steps=2), CORPUS, TOKENIZER, tmp_path, progress=False)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--text nowhere.txt", "nowhere.txt can not be read"),
        ("--steps 0", "steps is 0"),
        ("--bf16 --device cpu", "--bf16 needs CUDA"),
    ],
)
def test_the_command_ends_in_one_line_on_bad_input(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as ended:
        main([*arguments.split(), "--output", str(tmp_path / "out")])
    assert "\n" not in str(ended.value)


def test_a_text_too_short_to_hold_any_out_is_refused(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text(sentence(0))
    with pytest.raises(SystemExit, match="too few to hold one out"):
        main(["--text", str(text), "--output", str(tmp_path / "out"), "--device", "cpu"])


def test_ignored_labels_do_not_count_in_the_scores():
    batches = Batches(CORPUS, TOKENIZER, TINY)
    model = BertForPreTraining(TINY.config(TOKENIZER.get_vocab_size()))
    scores = evaluate(model, batches, batches.token_counts(), limit=2)
    asked = sum((batches[i][2] != IGNORE).sum().item() for i in range(2))
    assert scores.masked_tokens == asked and 0 <= scores.masked_accuracy <= 1
