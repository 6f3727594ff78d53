#!/usr/bin/env python3
"""Vectors for docs/spec/enrolment.md, made without any of the project's code: hashlib, hmac and urllib.

    python3 tests/vectors/enrolment.py           writes tests/vectors/enrolment.json
    python3 tests/vectors/enrolment.py --print   prints it

The tokens are test tokens, made from their names. Nothing here is a secret.
"""

import base64
import hashlib
import hmac
import json
import os
import struct
import sys
import urllib.parse


def fixed(tag, size):
    out = b""
    while len(out) < size:
        out += hashlib.sha256(b"countersign test vector" + tag.encode() + bytes([len(out) // 32])).digest()
    return out[:size]


def ed25519_blob(key):
    return struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + key


def case(tag, name, host_key):
    token, realm = fixed(tag + " token", 32), fixed(tag + " realm", 32)
    actor, x25519 = fixed(tag + " actor", 20), fixed(tag + " x25519", 32)
    message = (b"countersign.enrol.v1" + realm + actor + x25519
               + hashlib.sha256(name.encode()).digest() + hashlib.sha256(host_key).digest())
    query = [("realm", realm.hex()), ("actor", "0x" + actor.hex()), ("x25519", x25519.hex()), ("name", name)]
    if host_key:
        query.append(("host-key", base64.urlsafe_b64encode(host_key).rstrip(b"=").decode()))
    return {
        "token": token.hex(),
        "token-text": "cst1-" + base64.urlsafe_b64encode(token).rstrip(b"=").decode(),
        "realm": "0x" + realm.hex(),
        "actor": "0x" + actor.hex(),
        "x25519": "0x" + x25519.hex(),
        "x25519-fingerprint": "SHA256:" + base64.b64encode(hashlib.sha256(x25519).digest()).rstrip(b"=").decode(),
        "name": name,
        "host-key": "0x" + host_key.hex(),
        "mac": "0x" + hmac.new(token, message, hashlib.sha256).hexdigest(),
        "uri": "countersign:device?" + urllib.parse.urlencode(query),
    }


def main():
    cases = [
        case("one", "press-7", b""),
        case("two", "web1.example.org", ed25519_blob(fixed("host key", 32))),
        case("three", "a" * 253, b""),
    ]
    text = json.dumps({"cases": cases}, indent=2) + "\n"
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(text)
        return
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "enrolment.json")
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


if __name__ == "__main__":
    main()
