"""Times in turns."""

import time

import torch

from course_utils.timing import in_turns


def test_all_take_turns_on_the_threads_asked_for_and_the_count_is_put_back():
    called, before = [], torch.get_num_threads()

    def slow():
        called.append("slow")
        time.sleep(0.003)

    def quick():
        called.append(f"quick on {torch.get_num_threads()}")

    taken = in_turns({"slow": slow, "quick": quick}, rounds=3)
    assert called == ["slow", "quick on 1"] * 4
    assert taken["slow"] >= 3000 > taken["quick"] > 0
    assert torch.get_num_threads() == before
