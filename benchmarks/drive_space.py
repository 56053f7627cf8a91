"""Starts the demo page of `nas-zoo space` and uses it in a headless Chromium: uploads an image, reads the answer.

    python -m venv gradio-env && gradio-env/bin/pip install -r space/requirements.txt
    python benchmarks/drive_space.py space picture.png --python gradio-env/bin/python --screenshot page.png

Not a test, because gradio brings some fifty packages that nothing else here needs. It needs an environment with the
page's requirements (--python) and, in this one, playwright with a Chromium (both come with the project's dev extra and
CI script). Prints the page's answer beside that of the same app.py without a page; exit code 1 where they differ.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

ALONE = """
import json, sys
from PIL import Image
import app
found = app.classify(Image.open(sys.argv[1]))
print(json.dumps(sorted(found.items(), key=lambda pair: -pair[1])))
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"app.py ended with exit code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"app.py did not listen within {seconds:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path, help="folder of `nas-zoo space`")
    parser.add_argument("image", type=Path)
    parser.add_argument("--python", default=sys.executable, help="of an environment with the page's requirements")
    parser.add_argument("--screenshot", type=Path, default=Path("page.png"))
    parser.add_argument("--seconds", type=float, default=300, help="to wait for page and answer")
    given = parser.parse_args()
    from playwright.sync_api import expect, sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    browser_path = next((path for path in map(shutil.which, names) if path), None)
    image, python = str(given.image.resolve()), str(Path(given.python).absolute())
    done = subprocess.run([python, "-c", ALONE, image], cwd=given.space, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    expected = json.loads(done.stdout)

    port = free_port()
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_ANALYTICS_ENABLED": "False",
                "HF_HUB_OFFLINE": "1"}  # fmt: skip
    page_process = subprocess.Popen([python, "app.py"], cwd=given.space, text=True, env={**os.environ, **settings})
    try:
        wait_for(port, page_process, given.seconds)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 1400})
            page.set_default_timeout(1000 * given.seconds)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
            page.locator("input[type=file]").first.set_input_files(image)
            best = page.locator('[data-testid="label-output-value"]')
            expect(best).to_have_text(expected[0][0], timeout=1000 * given.seconds)
            shown = [text.strip() for text in page.locator('[data-testid$="-confidence-set"]').all_inner_texts()]
            cells = page.locator('img[src*="cells.png"]')
            expect(cells).to_be_visible(timeout=1000 * given.seconds)
            page.wait_for_function("[...document.images].every(image => image.complete)")
            page.screenshot(path=str(given.screenshot), full_page=True)
            answer = best.inner_text().strip()
            browser.close()
    finally:
        page_process.terminate()
        page_process.wait(30)
    print(json.dumps({"page": answer, "page_shows": shown, "app": expected[:3], "errors": errors}))
    return 0 if answer == expected[0][0] and not errors else 1


if __name__ == "__main__":
    sys.exit(main())
