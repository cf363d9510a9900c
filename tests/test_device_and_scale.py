"""Which device, which scale, which lesson: decided in one place each."""

import random

import numpy as np
import pytest
import torch

from course_utils.classroom import device, scale, start


def test_the_cpu_kernel_computes_on_the_cpu(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert device() == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA answers on this machine")
def test_the_gpu_kernel_without_cuda_says_what_to_do(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cuda")
    with pytest.raises(RuntimeError, match="Course \\(CPU\\)"):
        device()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")
def test_the_gpu_kernel_computes_on_cuda(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cuda")
    assert device().type == "cuda"


def test_any_other_kernel_gets_the_best_there_is(monkeypatch):
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    if torch.cuda.is_available():
        assert device().type == "cuda"
    elif not torch.backends.mps.is_available():
        assert device().type == "cpu"


def test_an_unknown_device_is_refused(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "tpu")
    with pytest.raises(ValueError, match="cpu or cuda"):
        device()


def test_the_scale_picks_the_numbers(monkeypatch):
    monkeypatch.delenv("COURSE_SCALE", raising=False)
    assert scale(small=dict(steps=3), full=dict(steps=30)).steps == 3
    monkeypatch.setenv("COURSE_SCALE", "full")
    assert scale(small=dict(steps=3), full=dict(steps=30)).steps == 30
    monkeypatch.setenv("COURSE_SCALE", "huge")
    with pytest.raises(ValueError, match="small or full"):
        scale(small=dict(steps=3), full=dict(steps=30))


def test_both_scales_name_the_same_numbers():
    with pytest.raises(ValueError, match="seeds"):
        scale(small=dict(steps=3), full=dict(steps=3, seeds=1))


def test_start_seeds_every_generator_and_prints_one_line(capsys, monkeypatch):
    monkeypatch.delenv("COURSE_SCALE", raising=False)
    draws = []
    for _ in range(2):
        start("01", seed=3)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]
    assert capsys.readouterr().out == "Lesson 01 · attention from scratch · scale: small\n" * 2


def test_start_refuses_a_lesson_that_does_not_exist():
    with pytest.raises(ValueError, match="'01'"):
        start("1")
