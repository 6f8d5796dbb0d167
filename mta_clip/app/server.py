"""Serves the page on this machine: no request leaves it, and it serves no file that it was not given."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .answers import Answers

# Whatever a version of Gradio would like to load from elsewhere, browsers refuse.
ONLY_FROM_HERE = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"
SESSIONS = 100  # visitors whose last answer is kept


class ContentSecurityPolicy:
    """Adds the header of this name to every answer (ASGI middleware).

    Args:
        app: that is served.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """See ASGI."""

        async def with_header(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", ONLY_FROM_HERE.encode())]
            await send(message)

        await self.app(scope, receive, with_header)


@contextmanager
def serving(
    answers: Answers,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    max_upload_mb: int = 30,
    examples: Sequence[str] = (),
) -> Iterator[str]:
    """Serves the page while its block runs; all files that it makes are deleted at the end.

    Args:
        port: None: the first free one from 7860 on.
        share: also through a public link of Gradio's, by a tunnel through the internet.
        max_upload_mb: size of a file that visitors may send, in megabytes.
        examples: image files.

    Yields:
        The address of the page.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
        OSError: the port is taken, or an example cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="mta-clip-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when components are made
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # also of the import
        from . import page as layout

        copies = [_copied(path, Path(folder) / f"example_{number}") for number, path in enumerate(examples)]
        page = layout.build_page(answers, examples=copies)
        page.queue(max_size=64)
        _, local, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            show_error=True,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            max_file_size=f"{max_upload_mb}mb",
            state_session_capacity=SESSIONS,
            app_kwargs={"middleware": [(ContentSecurityPolicy, (), {})], "docs_url": None, "redoc_url": None},
            theme=layout.theme(),
            css_paths=layout.FILES / "page.css",
        )
        try:
            yield public or local
        finally:
            page.close(verbose=False)


def _copied(path: str, folder: Path) -> Path:
    folder.mkdir()  # of its own: two examples may have the same name
    return Path(shutil.copy(path, folder / Path(path).name))
