"""Wrong answers of lesson 08 on no list of known mistakes: the cases must reject them too."""

import torch

from course_utils.question_answering import best_of_windows, best_span, choose_threshold
from course_utils.token_classification import align_labels, tags_to_spans, viterbi


def spans_of_one_word_only(tags, words):
    return [
        (start, end, tag[2:])
        for tag, (start, end) in zip(tags, words, strict=True)
        if tag.startswith("B-")
    ]


def spans_without_their_types(tags, words):
    return [(start, end, "x") for start, end, _ in tags_to_spans(tags, words)]


def spans_from_the_end(tags, words):
    return tags_to_spans(tags, words)[::-1]


def labels_on_all_but_the_first_piece(word_ids, labels, ignore=-100):
    first = align_labels(word_ids, labels, ignore)
    return [
        ignore if word is None or label != ignore else labels[word]
        for word, label in zip(word_ids, first)
    ]


def labels_with_the_first_word_left_out(word_ids, labels, ignore=-100):
    return [ignore if word == 0 else x
            for word, x in zip(word_ids, align_labels(word_ids, labels, ignore))]  # fmt: skip


def second_best_path(scores, first, following):
    path = viterbi(scores, first, following)
    return [*path[:-1], (path[-1] + 1) % scores.shape[1]] if path else path


def path_of_probabilities(scores, first, following):
    return viterbi(scores.exp(), first, following)


def path_without_the_words(scores, first, following):
    return viterbi(torch.zeros_like(scores), first, following)


def span_by_product(start_logits, end_logits, allowed, max_length=30):
    first, last, _ = best_span(start_logits.exp(), end_logits.exp(), allowed, max_length)
    return first, last, (start_logits[first] + end_logits[last]).item()


def span_with_a_mean_score(start_logits, end_logits, allowed, max_length=30):
    first, last, score = best_span(start_logits, end_logits, allowed, max_length)
    return first, last, score / 2


def window_with_the_lowest_score(spans, offsets):
    start, end, score = best_of_windows([(a, b, -s) for a, b, s in spans], offsets)
    return start, end, -score


def whole_window(spans, offsets):
    start, end, score = best_of_windows(spans, offsets)
    return 0, max(place[1] for row in offsets for place in row if place), score


def threshold_in_the_middle(differences, gains):
    choose_threshold(differences, gains)
    return sorted(differences)[len(differences) // 2]


def threshold_a_little_higher(differences, gains):
    return choose_threshold(differences, gains) + 0.1


WRONG = {
    "tokens/bio-spans": [spans_of_one_word_only, spans_without_their_types, spans_from_the_end],
    "tokens/align-labels": [
        labels_on_all_but_the_first_piece,
        labels_with_the_first_word_left_out,
    ],
    "tokens/viterbi": [second_best_path, path_of_probabilities, path_without_the_words],
    "answers/best-span": [span_by_product, span_with_a_mean_score],
    "answers/best-of-windows": [window_with_the_lowest_score, whole_window],
    "answers/threshold": [threshold_in_the_middle, threshold_a_little_higher],
}
