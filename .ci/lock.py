"""Turns what `pip install --dry-run --report -` says into a list of versions with hashes."""

import json
import sys

HEAD = """\
# Every package that requirements.txt brings, with the hash of the file that was tested: Linux, x86_64, Python
# 3.11, torch for the CPU (https://download.pytorch.org/whl/cpu). Made by `make lock`; to install it:
#     pip install --require-hashes --no-deps -r requirements.lock
"""
print(HEAD, end="")
for part in sorted(json.load(sys.stdin)["install"], key=lambda part: part["metadata"]["name"].lower()):
    name, version = part["metadata"]["name"].lower(), part["metadata"]["version"]
    (digest,) = [part["download_info"]["archive_info"]["hashes"]["sha256"]]
    print(f"{name}=={version} --hash=sha256:{digest}")
