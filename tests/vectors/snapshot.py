#!/usr/bin/env python3
"""Writes and reads snapshots after docs/spec/snapshot.md, sharing no code with the Rust implementation.

    snapshot.py write snapshot.json DIRECTORY    writes what the JSON describes (regenerates tests/vectors/snapshot/)
    snapshot.py check snapshot.json DIRECTORY    reads DIRECTORY in full and compares it with the JSON

Modes, owners and links are the business of whoever opens files; this script looks at bytes only.
"""

import hashlib
import json
import os
import struct
import sys
import zlib

PAGE, PAYLOAD = 4096, 4092
AUDIENCES = {"access": 1, "accounts": 2}


def name(text):
    raw = text.encode()
    assert len(raw) <= 32
    return bytes([len(raw)]) + raw + bytes(32 - len(raw))


def text(value):
    raw = value.encode()
    return struct.pack(">H", len(raw)) + raw


def u8(value):
    return struct.pack(">B", value)


def u32(value):
    return struct.pack(">I", value)


def u64(value):
    return struct.pack(">Q", value)


def h(value, size):
    raw = bytes.fromhex(value)
    assert len(raw) == size, value
    return raw


def ident(value):
    return h(value, 16)


def options(grant):
    command, sources, hours = grant["forced_command"], grant["source_addresses"], grant["hours"]
    if command is None and not sources and not hours:
        return b""
    out = u8(command is not None) + text(command or "")
    out += struct.pack(">H", len(sources)) + b"".join(text(source) for source in sources)
    out += struct.pack(">H", len(hours))
    return out + b"".join(struct.pack(">BHH", *interval) for interval in hours)


def account(row, blob):
    body = u32(row["uid"]) + u32(row["gid"]) + u8(row["state"]) + name(row["login"])
    return body + blob(row["display_name"].encode())


def grant(row, blob):
    body = u8(row["subject_tag"]) + ident(row["subject"]) + u8(row["via"]) + u8(row["approvals"]) + u8(row["permits"])
    return body + u64(row["max_ttl"]) + u64(row["not_after"]) + blob(options(row))


def ca(row, blob):
    body = ident(row["id"]) + u8(row["state"]) + u64(row["retired_at"]) + u64(row["max_ttl"])
    return body + u8(row["logins_restricted"]) + blob(bytes.fromhex(row["key_blob"]))


def batch(row, _):
    body = u8(row["state"]) + ident(row["ca"]) + h(row["root"], 32) + u32(row["size"])
    return body + u64(row["time"]) + u64(row["not_after"]) + u64(row["block"])


def nothing(_row, _blob):
    return b""


# Name: table id, bytes of body, key fields, body.
TABLES = {
    "access": {
        "login": (1, 20, lambda r: r["login"].encode(), lambda r, _: u32(r["uid"]) + ident(r["user"])),
        "user": (2, 34, lambda r: ident(r["id"]), lambda r, _: u8(r["state"]) + name(r["login"])),
        "grant": (3, 46, lambda r: ident(r["id"]), grant),
        "grant-login": (4, 0, lambda r: ident(r["grant"]) + r["login"].encode(), nothing),
        "membership": (5, 0, lambda r: ident(r["group"]) + ident(r["user"]), nothing),
        "key": (
            6,
            26,
            lambda r: h(r["fingerprint"], 20),
            lambda r, _: ident(r["user"]) + u8(r["state"]) + u8(r["purposes"]) + u64(r["not_after"]),
        ),
        "key-grant": (7, 16, lambda r: ident(r["user"]) + r["login"].encode(), lambda r, _: ident(r["grant"])),
        "ca": (8, 44, lambda r: hashlib.sha256(bytes.fromhex(r["key_blob"])).digest(), ca),
        "ca-login": (9, 0, lambda r: ident(r["ca"]) + r["login"].encode(), nothing),
        "batch": (10, 77, lambda r: ident(r["id"]), batch),
        "serial": (11, 0, lambda r: ident(r["ca"]) + u64(r["serial"]), nothing),
        "grant-elsewhere": (12, 0, lambda r: ident(r["id"]), nothing),
        "revoked-key": (13, 1, lambda r: h(r["fingerprint"], 20), lambda r, _: u8(r["denial"])),
        "request": (
            14,
            56,
            lambda r: ident(r["id"]),
            lambda r, _: ident(r["user"]) + h(r["approval_hash"], 32) + u64(r["time"]),
        ),
        "approval": (
            15,
            57,
            lambda r: ident(r["request"]) + u8(r["ordinal"]),
            lambda r, _: u8(r["verdict"]) + ident(r["approver"]) + u64(r["time"]) + h(r["approval_hash"], 32),
        ),
        "label": (16, 0, lambda r: h(r["sha256"], 32), nothing),
        "realm": (17, 0, lambda r: h(r["id"], 32), nothing),
        "granted-login": (18, 0, lambda r: r["login"].encode(), nothing),
    },
    "accounts": {
        "account-name": (32, 52, lambda r: r["login"].encode(), account),
        "account-uid": (33, 52, lambda r: u32(r["uid"]), account),
        "group-name": (34, 37, lambda r: r["name"].encode(), lambda r, _: u32(r["gid"]) + name(r["name"])),
        "group-gid": (35, 37, lambda r: u32(r["gid"]), lambda r, _: u32(r["gid"]) + name(r["name"])),
        "group-of": (36, 4, lambda r: u32(r["ordinal"]) + r["login"].encode(), lambda r, _: u32(r["gid"])),
        "group-member": (37, 33, lambda r: u32(r["gid"]) + u32(r["ordinal"]), lambda r, _: name(r["login"])),
    },
}
# Where a body ends in a reference to a blob.
WITH_BLOB = {3, 8, 32, 33}


def digest(salt, table_id, key):
    return hashlib.sha256(salt + bytes([table_id]) + key).digest()[:16]


def page(generation, number, payload):
    payload = payload.ljust(PAYLOAD, b"\0")
    assert len(payload) == PAYLOAD
    return payload + u32(zlib.crc32(u64(generation) + u32(number) + payload))


def build(vector, audience, generation, put, delete=None):
    """The bytes of a base (delete is None) or delta."""
    salt = ident(vector["salt"])
    blobs = bytearray()

    def blob(raw):
        offset = len(blobs) if raw else 0
        blobs.extend(raw)
        return struct.pack(">QH", offset, len(raw))

    pages, directory, next_page = [], b"", 1
    for table, (table_id, body_bytes, key, body) in TABLES[audience].items():
        rows = [(digest(salt, table_id, key(row)), row) for row in put.get(table, [])]
        rows += [(digest(salt, table_id, key(row)), None) for row in (delete or {}).get(table, [])]
        rows.sort(key=lambda row: row[0])
        size = 16 + body_bytes + (delete is not None)
        records = []
        for key_digest, row in rows:
            operation = b"" if delete is None else u8(1 if row is not None else 2)
            record = key_digest + operation + (body(row, blob) if row is not None else bytes(body_bytes))
            assert len(record) == size, table
            records.append(record)
        per_page = PAYLOAD // size
        first = next_page
        for start in range(0, len(records), per_page):
            pages.append(page(generation, next_page, b"".join(records[start : start + per_page])))
            next_page += 1
        directory += struct.pack(">BBHIIIQ", table_id, 0, size, first, next_page - first, 0, len(records))
    blob_first = next_page
    for start in range(0, len(blobs), PAYLOAD):
        pages.append(page(generation, next_page, bytes(blobs[start : start + PAYLOAD])))
        next_page += 1
    header = b"CSIGNSNP" + struct.pack(">HBBI", 1, AUDIENCES[audience], 1 if delete is None else 2, PAGE)
    header += u64(generation) + u64(1) + salt + h(vector["realm"], 32) + ident(vector["host"])
    header += u64(next_page * PAGE) + u32(blob_first) + u32(next_page - blob_first) + u64(len(blobs))
    header += struct.pack(">H", len(TABLES[audience])) + bytes(6) + directory
    return page(generation, 0, header) + b"".join(pages)


def reference(generation, content):
    return u64(generation) + u64(len(content)) + content[PAYLOAD:PAGE] + bytes(4)


def manifest(vector, audience, generation, base, delta):
    facts = vector["facts"]
    out = b"CSIGNMAN" + struct.pack(">HBB", 1, AUDIENCES[audience], delta is not None) + bytes(4) + u64(generation)
    out += reference(1, base) + (reference(2, delta) if delta is not None else bytes(24))
    out += ident(vector["salt"]) + h(vector["realm"], 32) + ident(vector["host"])
    out += bytes([facts["host_state"], facts["require_logged"], facts["allow_root"]]) + bytes(5)
    for field in ("pickup", "max_ttl", "latest_number", "latest_time", "final_number", "final_time", "valid_until",
                  "boottime", "age_consumed", "max_staleness", "highest_wall"):
        out += u64(facts[field])
    out += ident(facts["boot_id"])
    out = out.ljust(508, b"\0")
    return out + u32(zlib.crc32(out))


def files(vector):
    access, delta = vector["access"], vector["delta"]
    base = build(vector, "access", 1, access)
    change = build(vector, "access", 2, delta["put"], delta["delete"])
    accounts = build(vector, "accounts", 1, vector["accounts"])
    return {
        "access/base.1": base,
        "access/delta.2": change,
        "access/manifest": manifest(vector, "access", 2, base, change),
        "accounts/base.1": accounts,
        "accounts/manifest": manifest(vector, "accounts", 2, accounts, None),
    }


def write(vector, directory):
    for path, content in files(vector).items():
        path = os.path.join(directory, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
            out.write(content)


def read_file(content, generation, tables, kind):
    """Digest -> (operation, body with its blob instead of the reference), by table id; all pages checked."""
    assert len(content) % PAGE == 0
    payloads = []
    for number in range(len(content) // PAGE):
        one = content[number * PAGE : (number + 1) * PAGE]
        assert one == page(generation, number, one[:PAYLOAD]), f"checksum of page {number}"
        payloads.append(one[:PAYLOAD])
    header = payloads[0]
    assert header[:8] == b"CSIGNSNP" and header[8:10] == b"\0\1" and header[11] == kind
    assert struct.unpack(">QQ", header[16:32]) == (generation, 1)
    total, blob_first, blob_pages, blob_bytes, count = struct.unpack(">QIIQH", header[96:122])
    assert total == len(content) and count == len(tables)
    assert len(payloads) == blob_first + blob_pages
    blobs = b"".join(payloads[blob_first:])
    assert blobs[blob_bytes:].strip(b"\0") == b""
    found, next_page = {}, 1
    for index, (table_id, body_bytes, _, _) in enumerate(tables.values()):
        entry = struct.unpack(">BBHIIIQ", header[128 + 24 * index : 152 + 24 * index])
        size = 16 + (kind == 2) + body_bytes
        assert entry[:3] == (table_id, 0, size) and entry[3] == next_page and entry[5] == 0
        per_page, records = PAYLOAD // size, {}
        before = b""
        for ordinal in range(entry[6]):
            payload = payloads[next_page + ordinal // per_page]
            record = payload[ordinal % per_page * size :][:size]
            key, rest = record[:16], record[16:]
            assert before < key
            before = key
            operation, rest = (rest[0], rest[1:]) if kind == 2 else (1, rest)
            if table_id in WITH_BLOB and operation == 1:
                offset, length = struct.unpack(">QH", rest[-10:])
                assert offset + length <= blob_bytes
                rest = rest[:-10] + blobs[offset : offset + length]
            records[key] = (operation, rest)
        next_page += -(-entry[6] // per_page)
        assert entry[3] + entry[4] == next_page
        found[table_id] = records
    assert next_page == blob_first
    return found


def expected(vector, tables, put, delete=None):
    """What read_file must find."""
    salt = ident(vector["salt"])
    rows = {}
    for table, (table_id, _, key, body) in tables.items():
        rows[table_id] = {digest(salt, table_id, key(row)): (1, body(row, bytes)) for row in put.get(table, [])}
        for row in (delete or {}).get(table, []):
            rows[table_id][digest(salt, table_id, key(row))] = (2, bytes(tables[table][1]))
    return rows


def check(vector, directory):
    def content(path):
        with open(os.path.join(directory, path), "rb") as file:
            return file.read()

    base, delta, accounts = content("access/base.1"), content("access/delta.2"), content("accounts/base.1")
    access_tables, account_tables = TABLES["access"], TABLES["accounts"]
    assert read_file(base, 1, access_tables, 1) == expected(vector, access_tables, vector["access"]), "access/base.1"
    change = vector["delta"]
    changed = expected(vector, access_tables, change["put"], change["delete"])
    assert read_file(delta, 2, access_tables, 2) == changed, "access/delta.2"
    assert read_file(accounts, 1, account_tables, 1) == expected(vector, account_tables, vector["accounts"])
    assert content("access/manifest") == manifest(vector, "access", 2, base, delta), "access/manifest"
    assert content("accounts/manifest") == manifest(vector, "accounts", 2, accounts, None), "accounts/manifest"


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    with open(sys.argv[2]) as file:
        vector = json.load(file)
    (write if sys.argv[1] == "write" else check)(vector, sys.argv[3])


if __name__ == "__main__":
    main()
