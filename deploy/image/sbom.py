"""Writes the bill of materials of an image, CycloneDX 1.6, to stdout: what is installed in this Python and what Debian holds.

    python deploy/image/sbom.py --dpkg /var/lib/dpkg > sbom.cdx.json

The same packages give the same bytes: there is no time in it, and its serial number is drawn from what it lists.
"""

import argparse
import json
import subprocess
import uuid
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG_FIELDS = "${Package}\t${Version}\t${Architecture}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dpkg", type=Path, required=True, help="dpkg's folder of the image, such as /var/lib/dpkg")
    print(json.dumps(bill(parser.parse_args().dpkg), indent=1, ensure_ascii=False))


def bill(dpkg: Path) -> dict[str, Any]:
    """Raises subprocess.CalledProcessError when `dpkg` is no folder of dpkg's."""
    subject, *libraries = sorted(
        map(_python, distributions()), key=lambda each: (each["name"] != "scrutin", each["purl"])
    )
    components = [*libraries, *_debian(dpkg)]
    listed = "\n".join(each["purl"] for each in [subject, *components])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, listed)}",
        "version": 1,
        "metadata": {"component": subject | {"type": "application"}},
        "components": components,
    }


def _python(found: Distribution) -> dict[str, Any]:
    name = found.name.lower().replace("_", "-").replace(".", "-")
    return _component(found.name, found.version, f"pkg:pypi/{name}@{quote(found.version)}", _licence(found))


def _licence(found: Distribution) -> list[dict[str, Any]]:
    """What the distribution says of itself, as it says it."""
    if expression := found.metadata["License-Expression"]:
        return [{"expression": expression}]
    classifiers = found.metadata.get_all("Classifier", [])
    return [{"license": {"name": each}} for each in classifiers if each.startswith("License :: ")]


def _debian(folder: Path) -> list[dict[str, Any]]:
    query = ["dpkg-query", f"--admindir={folder}", "--show", f"--showformat={DPKG_FIELDS}"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    return [
        _component(name, version, f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}", [])
        for name, version, architecture in (line.split("\t") for line in sorted(lines))
    ]


def _component(name: str, version: str, purl: str, licences: list[dict[str, Any]]) -> dict[str, Any]:
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return component | ({"licenses": licences} if licences else {})


if __name__ == "__main__":
    main()
