"""What a package index shows: the README with links that work there, and where the project lives."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")
URLS = {
    "Documentation": "blob/main/docs/quick-start.md",
    "Changelog": "blob/main/CHANGELOG.md",
    "Issues": "issues",
    "Source": "",
}


class CustomMetadataHook(MetadataHookInterface):
    """Fills in the README and the URLs from `home`, which pyproject.toml configures: where the project is published."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both; called by hatchling."""
        home, version = self.config["home"].rstrip("/"), metadata["version"]
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        shown = absolute(text, home, f"v{version}") if home else unlinked(text)
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
        metadata["urls"] = {name: f"{home}/{path}".rstrip("/") for name, path in URLS.items()} if home else {}


def absolute(text: str, home: str, tag: str) -> str:
    """Return a page with its relative links and pictures as URLs of this version."""
    text = PICTURE.sub(rf"![\1]({home}/raw/{tag}/\2)", text)
    return LINK.sub(rf"[\1]({home}/blob/{tag}/\2)", text)


def unlinked(text: str) -> str:
    """Return a page that names the files of relative links, which lead nowhere, and shows no pictures of them."""
    text = re.sub(rf"{PICTURE.pattern}\n*", "", text)
    return LINK.sub(lambda link: link[1] if link[1] == link[2] else f"{link[1]} (`{link[2]}`)", text)
