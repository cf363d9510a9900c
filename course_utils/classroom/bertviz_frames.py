"""bertviz's head view and model view, made to show offline in JupyterLab 4.

bertviz's own HTML asks a CDN for require.js, d3 and jquery, and JupyterLab 4 has no `require`:
offline it stays blank. Here each view is a page of its own, in an iframe, so nothing clashes with
JupyterLab's scripts. The page carries d3 (from the installed mpld3) and jquery (from the installed
nbclassic), read when the view is made. bertviz asks require.js for these two only, so three lines
stand in for it.
"""

import json
from html import escape
from importlib.resources import files

from torch import Tensor

_REQUIRE = """
const require = {config() {}};
function requirejs(names, use) { use(...names.map(name => ({d3, jquery: jQuery})[name])); }
"""


class Frame:
    """A page in an iframe. `_repr_html_` shows it; its text form says what it would have shown."""

    def __init__(self, page: str, height: int, text: str):
        self.page, self.height, self.text = page, height, text

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.page)}" sandbox="allow-scripts" loading="lazy" '
            f'title="{escape(self.text)}" width="100%" height="{self.height}" '
            'style="border:0;background:white"></iframe>'
        )

    def __repr__(self) -> str:
        return self.text


def bertviz_frame(
    view: str, weights: Tensor, tokens: list[str], layer: int, head: int | None
) -> Frame:
    """bertviz's "head_view" or "model_view" of weights (layers, heads, n, n) between n tokens.

    A view weighs about 0.35 MB in the stored notebook: one a lesson.
    """
    layers, heads, n, _ = weights.shape
    params = {
        "attention": [
            {
                "name": None,
                "attn": [_rounded(one_layer) for one_layer in weights],
                "left_text": tokens,
                "right_text": tokens,
            }
        ],
        "default_filter": "0",
        "root_div_id": "view",
        "layer": layer,
        "heads": None if head is None else [head],
        "include_layers": list(range(layers)),
        "include_heads": list(range(heads)),
        "total_heads": heads,
        "display_mode": "light",  # a sheet of paper, as the course's figures
    }
    chooser = 'Layer: <select id="layer"></select>' if view == "head_view" else ""
    drawing = _read("bertviz", f"{view}.js").replace("PYTHON_PARAMS", json.dumps(params))
    # Two addresses remain in the drawing's call of require.config, which does nothing here.
    drawing = drawing.replace("https://cdnjs.cloudflare.com", "")
    if view == "model_view":  # drawn 970 pixels wide: made to fit the page
        drawing = "document.body.style.zoom = Math.min(1, innerWidth / 985);" + drawing
    scripts = [
        _read("mpld3", "js/d3.v5.min.js"),
        _read("nbclassic", "static/components/jquery/jquery.min.js"),
        _REQUIRE,
        drawing,
    ]
    page = (
        '<!doctype html><meta charset="utf-8"><body style="margin:4px;font-family:sans-serif">'
        f'<div id="view">{chooser}<div id="vis"></div></div>'
        + "".join("<script>" + s.replace("</script", r"<\/script") + "</script>" for s in scripts)
    )
    text = f"bertviz's {view.replace('_', ' ')} of {layers} layers × {heads} heads over {n} tokens"
    height = 80 + 23 * n if view == "head_view" else max(60 + 970 * layers // heads, 160 + 18 * n)
    return Frame(page, min(height, 800), text)


def _rounded(tensor: Tensor) -> list:
    return [[[round(w, 3) for w in row] for row in head] for head in tensor.tolist()]


def _read(package: str, path: str) -> str:
    try:
        return files(package).joinpath(path).read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        raise ValueError(
            f"bertviz's views need {path} of the package {package}, which is not installed: "
            f'use view="heads", or pip install {package}'
        ) from None
