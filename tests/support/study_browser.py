"""A page of a headless Chromium, and what opens a sheet in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a headless Chromium, spoken to through its debugging pipe: no port, no driver, no network."""

    def __init__(self, profile: Path) -> None:
        inward, self.write = os.pipe()
        self.read, outward = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --remote-debugging-pipe"
        line = f'exec "$0" {flags} --user-data-dir="$1" about:blank 3<&{inward} 4>&{outward}'
        self.process = subprocess.Popen(
            ["bash", "-c", line, str(CHROMIUM), str(profile)],
            pass_fds=(inward, outward),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(inward)
        os.close(outward)
        self.buffer, self.count, self.session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        self.session = None
        self.send("Browser.close")
        self.process.wait(30)
        os.close(self.read)
        os.close(self.write)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self.count:
                assert "error" not in found, found
                return dict(found["result"])
            self.events.append(found)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.read, 1 << 16)
            assert part, "the browser has gone"
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def js(self, code: str) -> Any:
        result = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, code: str) -> None:
        end = time.monotonic() + 20
        while not self.js(code):
            assert time.monotonic() < end, code
            time.sleep(0.02)

    def open(self, page: Path, query: str = "", ready: str = "typeof canonical === 'function'") -> None:
        url = page.as_uri() + query
        self.send("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && {ready}")

    def new_tab(self) -> Any:
        session, self.session = self.session, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime"):
            self.send(f"{domain}.enable")
        return session

    def switch(self, session: Any) -> None:
        self.session = session
        self.send("Page.bringToFront")

    def phone(self) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)

    def tap(self, selector: str) -> None:
        box = self.js(f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                      " return [b.x + b.width / 2, b.y + b.height / 2]; })()")  # fmt: skip
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": box[0], "y": box[1]}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def hold(self, key: str, code: int, text: str, times: int) -> None:
        """A key that is held down: the first press, then repeats; the browser clicks the focused button at each."""
        press = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        for n in range(times):
            self.send("Input.dispatchKeyEvent", type="keyDown", autoRepeat=n > 0, **press)
            time.sleep(0.3)  # longer than the guard against double presses
        self.send("Input.dispatchKeyEvent", type="keyUp", **press)

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key)


READY = "clock !== null && performance.now() - clock.shown > GUARD_MS"


def start(browser: Browser, rater: str) -> None:
    browser.js(f"$('rater').value = {json.dumps(rater)}")
    browser.js("$('start').requestSubmit()")
    assert browser.js("$('trial').hidden")  # no consent yet
    browser.js("$('consent').click(); $('start').requestSubmit()")
