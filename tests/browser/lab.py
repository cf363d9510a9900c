"""JupyterLab in headless Chromium, driven as a reader would."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

LOCAL = re.compile(
    r"((https?|wss?)://(localhost|127\.0\.0\.1|\[::1\])[:/])|(data|blob|about|chrome):"
)
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NOTEBOOK = "window.jupyterapp.shell.currentWidget"
KERNEL = f"{NOTEBOOK}?.sessionContext?.session?.kernel"
CELLS = ".jp-MainAreaWidget:not(.lm-mod-hidden) .jp-Notebook .jp-Cell"


def chromium() -> str | None:
    """The path of an installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Lab:
    """A JupyterLab server of its own on `folder`, and a browser page with one notebook open.

    Port, workspace, settings, kernels' connection files and the reader's files (mine/, progress)
    are fresh and temporary; the server and the browser end with the `with` block.
    `left` lists the addresses of requests that left the machine, `console` the page's errors.
    """

    def __init__(self, folder: Path, notebook: str, theme: str = "light", width: int = 1280):
        self.folder, self.notebook, self.theme, self.width = Path(folder), notebook, theme, width
        self.left: list[str] = []
        self.console: list[str] = []

    def __enter__(self) -> "Lab":
        from playwright.sync_api import sync_playwright

        with ExitStack() as stack:  # what was begun is ended when a later step fails
            private = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._serve(private, stack)
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM)
            stack.callback(browser.close)
            self.page = browser.new_page(
                viewport={"width": self.width, "height": 900}, color_scheme=self.theme
            )
            self.page.set_default_timeout(10_000)
            self.page.on("request", self._request)
            self.page.on(
                "console", lambda m: self.console.append(m.text) if m.type == "error" else None
            )
            self.page.goto(f"{self.url}/lab/workspaces/reader/tree/{self.notebook}", timeout=60_000)
            self.page.wait_for_selector(CELLS, timeout=90_000)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc) -> None:
        self._stack.close()

    def _request(self, request) -> None:
        if not LOCAL.match(request.url):
            self.left.append(request.url)

    def _serve(self, private: Path, stack: ExitStack) -> None:
        settings = private / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        themes = {"theme": "JupyterLab Dark" if self.theme == "dark" else "JupyterLab Light"}
        (settings / "themes.jupyterlab-settings").write_text(json.dumps(themes))
        news = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(news))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        env = os.environ | {
            "JUPYTER_CONFIG_DIR": str(private / "config"),
            "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(private / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(private / "workspaces"),
            "IPYTHONDIR": str(private / "ipython"),
            "COURSE_MINE": str(private / "mine"),
            "COURSE_PROGRESS": str(private / "progress.json"),
        }
        command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
        command += ["--expose-app-in-browser", f"--port={port}", "--ServerApp.port_retries=0"]
        command += ["--ip=127.0.0.1", "--IdentityProvider.token=", "--ServerApp.password="]
        command += [f"--ServerApp.root_dir={self.folder}"]
        log = stack.enter_context(open(private / "server.log", "w"))
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(_end, server)
        for _ in range(300):
            if server.poll() is not None:
                said = (private / "server.log").read_text()[-800:]
                raise RuntimeError(f"JupyterLab ended: {said}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)
        raise RuntimeError("JupyterLab did not answer within a minute")

    def finish(self, command: str, timeout: float) -> float:
        """Run a command of JupyterLab's menus to its end; seconds it took."""
        began = time.time()
        done = self.page.evaluate(
            """([command, ms]) => Promise.race([
                window.jupyterapp.commands.execute(command).then(() => true),
                new Promise(resolve => setTimeout(() => resolve(false), ms)),
            ])""",
            [command, 1000 * timeout],
        )
        if not done:
            raise TimeoutError(f"{command} is not done after {timeout:.0f} s")
        self.page.wait_for_timeout(1000)  # the last outputs are drawn
        return time.time() - began

    def run_all(self, timeout: float = 180) -> float:
        """Run all cells once the kernel has started; seconds it took."""
        self.page.wait_for_function(f"{KERNEL}?.status === 'idle'", timeout=60_000)
        return self.finish("notebook:run-all-cells", timeout)

    def cells(self) -> list[dict]:
        """The open notebook's cells as JSON, outputs included, from JupyterLab's own model."""
        return self.page.evaluate(f"() => {NOTEBOOK}.content.model.toJSON().cells")

    def errors(self) -> list[str]:
        """Error outputs and stderr text of all cells."""
        outputs = [o for cell in self.cells() for o in cell.get("outputs", [])]
        return [
            f"{o['ename']}: {o['evalue']}" if o["output_type"] == "error" else "".join(o["text"])
            for o in outputs
            if o["output_type"] == "error" or o.get("name") == "stderr"
        ]

    def index(self, text: str) -> int:
        """The number of the first code cell whose source contains `text`."""
        for i, cell in enumerate(self.cells()):
            if cell["cell_type"] == "code" and text in "".join(cell["source"]):
                return i
        raise LookupError(f"no code cell contains {text!r}")

    def cell(self, text: str):
        """The first code cell whose source contains `text`, scrolled into view, as a locator."""
        i = self.index(text)
        self.page.evaluate(
            """async i => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                notebook.activeCellIndex = i;
                await notebook.scrollToItem(i, 'start');
            }""",
            i,
        )
        self.page.wait_for_timeout(500)
        return self.page.locator(f'{CELLS}[data-windowed-list-index="{i}"]')

    def rewrite(self, text: str, source: str) -> None:
        """Put `source` in place of the code of the cell that contains `text`, and run that cell."""
        cell = self.cell(text)
        cell.locator(".cm-content").first.click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(source)
        self.finish("notebook:run-cell", 60)

    def screenshots(self, folder: Path) -> list[Path]:
        """The whole notebook from top to bottom, a screen at a time."""
        folder.mkdir(parents=True, exist_ok=True)
        host = self.page.query_selector(".jp-WindowedPanel-outer")
        paths, y = [], 0
        while y < self.page.evaluate("e => e.scrollHeight", host) and len(paths) < 60:
            self.page.evaluate("([e, y]) => e.scrollTop = y", [host, y])
            self.page.wait_for_timeout(900)
            paths.append(folder / f"{len(paths):02d}.png")
            self.page.screenshot(path=str(paths[-1]))
            y += 760
        return paths


def _end(server: subprocess.Popen) -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
