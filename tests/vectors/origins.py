#!/usr/bin/env python3
"""Reads a file of origins after docs/spec/snapshot.md, sharing no code with the Rust implementation.

    origins.py FILE    prints realm, host and records as JSON, in the file's order; exits with 1 where the file is not whole
"""

import json
import struct
import sys
import zlib

# Sort: name, then the key's fields: an id, twenty bytes of a key's hash, an ordinal, a number of eight bytes.
SORTS = {
    1: ("user", "I"), 2: ("grant", "I"), 3: ("membership", "II"), 4: ("key", "K"), 5: ("ca", "I"), 6: ("batch", "I"),
    7: ("request", "I"), 8: ("answer", "ION"), 9: ("key-lock", "K"), 10: ("key-revocation", "K"), 11: ("lock", "I"),
    12: ("revocation", "I"), 13: ("removal", "I"), 14: ("retirement", "I"), 15: ("certificate-revocation", "IN"), 16: ("issuer-denial", "I"),
}


def key_of(sort, raw):
    fields, at = [], 0
    for field in SORTS[sort][1]:
        size = {"I": 16, "K": 20, "O": 1, "N": 8}[field]
        part, at = raw[at : at + size], at + size
        fields.append(int.from_bytes(part, "big") if field in "ON" else part.hex())
    assert raw[at:] == bytes(32 - at), "zeros after the key"
    return fields


def read(data):
    assert len(data) >= 68, "a whole file"
    magic, version, zeros, realm, host = struct.unpack(">8sH6s32s16s", data[:64])
    assert (magic, version, zeros) == (b"CSIGNORI", 2, bytes(6)), "the header"
    assert zlib.crc32(data[:-4]) == struct.unpack(">I", data[-4:])[0], "the checksum"
    records, at, end = [], 64, len(data) - 4
    while at < end:
        assert end - at >= 65, "a whole record"
        sort, key, block, shard, index, time = struct.unpack(">B32sQQQQ", data[at : at + 65])
        at += 65
        keys = [key_of(sort, key)]
        if SORTS[sort][0] == "certificate-revocation":
            [[ca, count]] = keys
            assert end - at >= 8 * count, "as many serials as were said"
            keys = [[ca, serial] for serial in struct.unpack(f">{count}Q", data[at : at + 8 * count])]
            at += 8 * count
        entry = {"block": block, "shard": shard, "index": index, "time": time}
        records += [{"record": SORTS[sort][0], "key": key, **entry} for key in keys]
    return {"realm": realm.hex(), "host": host.hex(), "records": records}


try:
    with open(sys.argv[1], "rb") as file:
        print(json.dumps(read(file.read())))
except AssertionError as error:
    sys.exit(f"origins: expected {error}")
