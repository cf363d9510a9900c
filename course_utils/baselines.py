"""Lesson 06: what a fine-tuned encoder has to beat: words counted and weighed, with no order."""

import json
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline


class TfidfClassifier:
    """A scikit-learn pipeline that ends in a linear classifier: texts in, logits out.

    pipeline  fitted on texts and the numbers of their labels
    labels    the labels' names; label i of the pipeline is labels[i]

    Raises ValueError where the pipeline has not learned every label.
    """

    def __init__(self, pipeline: Pipeline, labels: Sequence[str]) -> None:
        self.pipeline, self.labels = pipeline, list(labels)
        if list(pipeline.classes_) != list(range(len(self.labels))):
            raise ValueError(
                f"the pipeline knows {len(pipeline.classes_)} of {len(self.labels)} labels; "
                "fit it on examples of every label, numbered as in labels."
            )

    @classmethod
    def train(
        cls, texts: Sequence[str], numbers: Sequence[int], labels: Sequence[str], C: float = 30.0
    ) -> "TfidfClassifier":
        """TF-IDF of words and word pairs, and logistic regression on it.

        texts, numbers  the examples, and the number of each one's label
        C               1 / strength of the L2 penalty
        """
        pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            LogisticRegression(C=C, max_iter=2000),
        )
        return cls(pipeline.fit(list(texts), list(numbers)), labels)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Texts → (texts, labels), float64; softmax of a row are the pipeline's probabilities."""
        found = self.pipeline.decision_function(list(texts))
        if found.ndim == 1:  # two labels: scikit-learn gives the second's logit only
            found = np.stack([np.zeros_like(found), found], axis=1)
        return found  # (texts, labels)

    def save(self, folder: Path | str) -> None:
        """Write pipeline.joblib and labels.json into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        joblib.dump(self.pipeline, folder / "pipeline.joblib")
        (folder / "labels.json").write_text(json.dumps(self.labels), encoding="utf-8")

    @classmethod
    def from_folder(cls, folder: Path | str) -> "TfidfClassifier":
        """What `save` wrote. The file is a pickle, which runs code: load only your own folders."""
        folder = Path(folder)
        if not (folder / "pipeline.joblib").is_file():
            raise ValueError(f"{folder} holds no pipeline.joblib; save a classifier there first.")
        labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        return cls(joblib.load(folder / "pipeline.joblib"), labels)
