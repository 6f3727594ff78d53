#!/usr/bin/env python3
"""Vectors for docs/spec/certificate.md, made without any of the project's code: hashlib and ssh-keygen.

    python3 tests/vectors/certificate.py                   writes tests/vectors/certificate.json
    python3 tests/vectors/certificate.py --deterministic   prints the part that is the same every time

The keys behind the certificates are thrown away as soon as they have signed. Nothing here is a secret.
"""

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile

SCOPE = "scope@countersign"
LOG_PROOF = "log-proof@countersign"


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def string(content):
    if isinstance(content, str):
        content = content.encode()
    return struct.pack(">I", len(content)) + content


def fixed(tag, size):
    """Bytes that look random and are the same every time."""
    out = b""
    counter = 0
    while len(out) < size:
        out += sha256(b"countersign test vector", tag.encode(), bytes([counter]))
        counter += 1
    return out[:size]


def b64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# --- RFC 9162, section 2.1, word for word


def node(left, right):
    return sha256(b"\x01", left, right)


def largest_power_below(n):
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def tree_root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = largest_power_below(len(leaves))
    return node(tree_root(leaves[:k]), tree_root(leaves[k:]))


def tree_path(m, leaves):
    if len(leaves) == 1:
        return []
    k = largest_power_below(len(leaves))
    if m < k:
        return tree_path(m, leaves[:k]) + [tree_root(leaves[k:])]
    return tree_path(m - k, leaves[k:]) + [tree_root(leaves[:k])]


# --- layouts


def leaf(realm, ca, pre_certificate):
    return sha256(b"\x00", b"countersign.precert.v1", realm, ca, pre_certificate)


def scope(realm, user, grant, tag, target, request):
    layout = b"\x01" + realm + user + grant + bytes([tag]) + target + request
    assert len(layout) == 114
    return layout


def log_proof(batch, index, size, path):
    return b"\x01" + batch + struct.pack(">IIB", index, size, len(path)) + b"".join(path)


def approval(realm, request, user, host, login, key_blob, ttl):
    return sha256(
        b"countersign.approval.v1", realm, request, user, host,
        bytes([len(login)]), login.encode(), sha256(key_blob), struct.pack(">Q", ttl),
    )


def option(name, text):
    return string(name) + string(string(text) if text else b"")


def to_be_signed(extensions):
    extensions = b"".join(option(name, text) for name, text in sorted(extensions.items()))
    return b"".join([
        string("ssh-ed25519-cert-v01@openssh.com"),
        string(fixed("nonce", 32)),
        string(fixed("key", 32)),
        struct.pack(">QI", 0x0123456789ABCDEF, 1),
        string("alice/" + fixed("request", 16).hex()),
        string(string("deploy")),
        struct.pack(">QQ", 1_800_000_000 - 30, 1_800_000_000 + 300),
        string(option("force-command", "/usr/bin/uptime") + option("source-address", "192.0.2.0/24")),
        string(extensions),
        string(b""),
        string(string("ssh-ed25519") + string(fixed("ca key", 32))),
    ])


# --- the cut, by walking over the fields


KEY_FIELDS = {
    b"ssh-ed25519-cert-v01@openssh.com": 1,
    b"ssh-rsa-cert-v01@openssh.com": 2,
    b"ecdsa-sha2-nistp256-cert-v01@openssh.com": 2,
    b"ecdsa-sha2-nistp384-cert-v01@openssh.com": 2,
    b"ecdsa-sha2-nistp521-cert-v01@openssh.com": 2,
    b"sk-ssh-ed25519-cert-v01@openssh.com": 2,
    b"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": 3,
}


class Walk:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data)
        self.at += n
        return self.data[self.at - n:self.at]

    def string(self):
        return self.take(struct.unpack(">I", self.take(4))[0])


def dissect(blob):
    """Everything a reader must find in a certificate."""
    walk = Walk(blob)
    kind = walk.string()
    nonce = walk.string()
    start = walk.at
    for _ in range(KEY_FIELDS[kind]):
        walk.string()
    plain = string(kind.replace(b"-cert-v01@openssh.com", b"@openssh.com" if kind.startswith(b"sk-") else b""))
    plain += blob[start:walk.at]
    serial, cert_type = struct.unpack(">QI", walk.take(12))
    key_id = walk.string().decode()
    principals, names = Walk(walk.string()), []
    while principals.at < len(principals.data):
        names.append(principals.string().decode())
    after, before = struct.unpack(">QQ", walk.take(16))
    lists = []
    for _ in range(2):
        items, found = Walk(walk.string()), []
        end = walk.at
        while items.at < len(items.data):
            begin = items.at
            name, data = items.string().decode(), items.string()
            base = end - len(items.data)
            found.append({"name": name, "data": data.hex(), "from": base + begin, "to": base + items.at})
        lists.append(found)
        extensions_at, extensions_end = end - len(items.data), end
    assert walk.string() == b""
    ca = walk.string()
    signed = blob[:walk.at]
    signature = walk.string()
    assert walk.at == len(blob)
    pre = signed
    for item in lists[1]:
        if item["name"] == LOG_PROOF:
            size = extensions_end - extensions_at - (item["to"] - item["from"])
            pre = (signed[:extensions_at - 4] + struct.pack(">I", size) + signed[extensions_at:item["from"]]
                   + signed[item["to"]:])
    return {
        "public-key": plain.hex(), "fingerprint": sha256(plain)[:20].hex(), "nonce": nonce.hex(), "serial": serial,
        "type": cert_type, "key-id": key_id, "principals": names, "valid-after": after, "valid-before": before,
        "critical-options": lists[0], "extensions": lists[1], "signature-key": ca.hex(),
        "signature": signature.hex(), "to-be-signed": signed.hex(), "pre-certificate": pre.hex(),
    }


def deterministic():
    realm, ca, batch = fixed("realm", 32), fixed("ca", 16), fixed("batch", 16)
    user, grant, host, request = (fixed(tag, 16) for tag in ["user", "grant", "host", "request"])
    key_blob = string("ssh-ed25519") + string(fixed("key", 32))
    scopes = []
    for name, tag, target in [
        ("host", 0, host + bytes(16)),
        ("label", 1, sha256(b"web")),
        ("all hosts", 2, bytes(32)),
    ]:
        layout = scope(realm, user, grant, tag, target, request)
        scopes.append({"target": name, "layout": layout.hex(), "text": b64url(layout)})
    permits = {"permit-pty": "", SCOPE: b64url(scope(realm, user, grant, 0, host + bytes(16), request))}
    pre = to_be_signed(permits)
    mine = leaf(realm, ca, pre)
    trees = []
    for size in range(1, 10):
        leaves = [leaf(realm, ca, b"pre-certificate %d" % at) for at in range(size)]
        trees.append({
            "leaves": [one.hex() for one in leaves],
            "root": tree_root(leaves).hex(),
            "paths": [[one.hex() for one in tree_path(at, leaves)] for at in range(size)],
        })
    batch_leaves = [leaf(realm, ca, b"before"), leaf(realm, ca, b"between"), mine]
    path = tree_path(2, batch_leaves)
    proof = log_proof(batch, 2, 3, path)
    logins = ["deploy", "a", "x" * 255]
    return {
        "realm": realm.hex(), "ca": ca.hex(), "batch": batch.hex(), "user": user.hex(), "grant": grant.hex(),
        "host": host.hex(), "label": "web", "request": request.hex(),
        "scopes": scopes,
        "trees": trees,
        "approvals": [
            {"login": login, "key": key_blob.hex(), "ttl": ttl,
             "hash": approval(realm, request, user, host, login, key_blob, ttl).hex()}
            for login, ttl in zip(logins, [300, 0, 2**64 - 1])
        ],
        "certificate": {
            "pre-certificate": pre.hex(),
            "leaf": mine.hex(),
            "root": tree_root(batch_leaves).hex(),
            "log-proof": {"index": 2, "size": 3, "path": [one.hex() for one in path], "layout": proof.hex(),
                          "text": b64url(proof)},
            "to-be-signed": to_be_signed({**permits, LOG_PROOF: b64url(proof)}).hex(),
        },
    }


def keygen(*arguments):
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def blob_of(path):
    with open(path) as file:
        return base64.b64decode(file.read().split()[1])


def certified(vectors):
    """One certificate by ssh-keygen for each type of key, and the fields as ssh-keygen -L and the walk above see them."""
    by_name = {
        "ed25519": ["-t", "ed25519"], "rsa": ["-t", "rsa", "-b", "2048"], "ecdsa-p256": ["-t", "ecdsa", "-b", "256"],
        "ecdsa-p384": ["-t", "ecdsa", "-b", "384"], "ecdsa-p521": ["-t", "ecdsa", "-b", "521"],
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        def path(name):
            return os.path.join(folder, name)

        for name, arguments in by_name.items():
            keygen(*arguments, "-N", "", "-C", "test only", "-f", path(name))
        for name, arguments in [("ca-ed25519", by_name["ed25519"]), ("ca-rsa", by_name["rsa"]),
                                ("ca-ecdsa", by_name["ecdsa-p384"])]:
            keygen(*arguments, "-N", "", "-C", "test only", "-f", path(name))
        # Keys on tokens: public halves are enough to be certified.
        point = blob_of(path("ecdsa-p256.pub"))[-65:]
        for name, kind, fields in [
            ("sk-ed25519", "sk-ssh-ed25519@openssh.com", [fixed("key", 32), "ssh:"]),
            ("sk-ecdsa-p256", "sk-ecdsa-sha2-nistp256@openssh.com", ["nistp256", point, "ssh:"]),
        ]:
            blob = string(kind) + b"".join(string(one) for one in fields)
            with open(path(name + ".pub"), "w") as file:
                file.write(f"{kind} {base64.b64encode(blob).decode()} test only\n")
        names = list(by_name) + ["sk-ed25519", "sk-ecdsa-p256"]
        cases = [(name, "ca-ed25519", []) for name in names]
        cases += [("ed25519", "ca-rsa", []), ("ed25519", "ca-ecdsa", []), ("ed25519", "ca-ed25519", ["-h"])]
        for name, ca, more in cases:
            extensions = ["-O", f"extension:{SCOPE}={vectors['scopes'][0]['text']}",
                          "-O", f"extension:{LOG_PROOF}={vectors['certificate']['log-proof']['text']}"]
            options = [] if more else ["-O", "clear", "-O", "permit-pty", "-O", "force-command=/usr/bin/uptime",
                                       "-O", "source-address=192.0.2.0/24", *extensions]
            keygen("-s", path(ca), "-I", "alice/" + vectors["request"], "-n", "deploy,alice", "-z", "81985529216486895",
                   "-V", "20270115080000Z:20270115080530Z", *options, *more, path(name + ".pub"))
            certificate = blob_of(path(name + "-cert.pub"))
            found.append({"key": name, "ca": ca, "certificate": certificate.hex(), **dissect(certificate)})
            os.remove(path(name + "-cert.pub"))
    return found


def main():
    vectors = deterministic()
    if sys.argv[1:] == ["--deterministic"]:
        json.dump(vectors, sys.stdout, indent=1)
        print()
        return
    if sys.argv[1:]:
        sys.exit(__doc__)
    whole = {
        "made-by": "python3 tests/vectors/certificate.py",
        "keys": "test only, thrown away",
        "deterministic": vectors,
        "ssh-keygen": certified(vectors),
    }
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "certificate.json"), "w") as file:
        json.dump(whole, file, indent=1)
        file.write("\n")


main()
