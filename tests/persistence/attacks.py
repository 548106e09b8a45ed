"""Files that are made to attack: their checksums are right, and what they say is not what skode writes."""

import hashlib
import json
import struct

import torch

from skode.persistence.archive import FORMAT, versions
from skode.persistence.tensor_file import BEGINNING, DIGEST_AT, N_DIGITS, packed

ESTIMATOR = ["known", "supervised.ODENetClassifier"]
ZEROS = {"0": torch.zeros(4)}


def document(objects, root=None, **changes):
    """The document of a file."""
    root = [len(objects) - 1] if root is None else root
    known = {"format": FORMAT, "kind": "estimator", "versions": versions(), "root": root, "objects": objects}
    return known | changes


def signed(content):
    """Bytes with the checksum that belongs to them."""
    content = bytearray(content)
    digest = hashlib.sha256(content[:DIGEST_AT] + content[DIGEST_AT + N_DIGITS :]).hexdigest()
    content[DIGEST_AT : DIGEST_AT + N_DIGITS] = digest.encode()
    return bytes(content)


def objects(*entries, tensors=None, **changes):
    """A file of a table of objects."""
    return bytes(packed(document(list(entries), **changes), tensors or {}))


def estimator(**attributes):
    """A file of an estimator with attributes that are plain values."""
    return objects(ESTIMATOR, ["object", [0], list(attributes), list(attributes.values())])


def header(text, data=b"", text_of_document=None):
    """A file with a header as it stands, behind the beginning that all files have."""
    known = json.dumps(document([["list", []]]), separators=(",", ":"))[1:]
    inner = known if text_of_document is None else text_of_document
    start = BEGINNING + b"0" * N_DIGITS + b'\\",' + json.dumps(inner)[1:-1].encode() + b'"}'
    whole = start + text.encode()
    return signed(struct.pack("<Q", len(whole)) + whole + data)


def doubling(n):
    """A table whose objects all occur twice in the next one."""
    return [["tuple", []], *(["tuple", [[i], [i]]] for i in range(n))]


def tensor(entry, data=b"\0" * 16):
    """A file with one tensor, by its entry in the header."""
    return header(f',"0":{json.dumps(entry)}}}', data)


def nested(n):
    return "[" * n + "]" * n


ATTACKS = {
    # names of code
    "os.system": objects(["users", "os", "system"]),
    "builtins.eval": objects(["users", "builtins", "eval"], ["partial", [0], ["print(1)"], [], []]),
    "subprocess.Popen": objects(["users", "subprocess", "Popen"], ["object", [0], ["args"], ["ls"]]),
    "skode.__main__": objects(["users", "skode.__main__", "main"]),
    "a module by its path": objects(["users", "/tmp/evil.py", "run"]),
    "a name that is said to be known": objects(["known", "os.system"]),
    "a name with a path": objects(["known", "supervised./../../tmp/evil.ODENetClassifier"]),
    "not a layer of torch": objects(["known", "torch.nn.functional"]),
    "a function where a class belongs": objects(["known", "torch.relu"], ["object", [0], [], []]),
    "a type of objects": objects(["exec", "import os"]),
    # attributes
    "a method that is replaced": estimator(predict="anything"),
    "the class of an object": estimator(__class__="anything"),
    "a name twice in an object": objects(ESTIMATOR, ["object", [0], ["alpha", "alpha"], [1, 2]]),
    "parameters that are strings": objects(
        ["known", "torch.nn.Linear"],
        ["dict", ["weight"], ["w"]],
        ["dict", [], []],
        ["set", []],
        [
            "module",
            [0],
            ["training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"],
            [True, [1], [2], [2], [3]],
        ],
    ),
    "a module without parts": objects(["known", "torch.nn.Linear"], ["module", [0], [], []]),
    "a record without fields": objects(["known", "density.Johnson"], ["object", [0], [], []]),
    "no estimator": objects(["list", []]),
    "another kind": objects(["list", []], kind="checkpoint"),
    # the table
    "an object inside itself": objects(["list", [[0]]]),
    "objects inside each other": objects(["list", [[1]]], ["list", [[0]]]),
    "objects that unfold without end": objects(*doubling(60)),
    "a set of objects that unfold": objects(*doubling(40), ["set", [[40]]]),
    "levels without end": objects(["list", []], *(["list", [[i]]] for i in range(5000))),
    "no table": bytes(packed(document({"a": []}, root=0), {})),
    "a list where a string belongs": objects(["zone", ["Europe/Berlin"]]),
    "a place that is a truth value": objects(["list", []], ["list", [[True]]]),
    # values
    "a zone by its path": objects(["zone", "../../../../etc/passwd"]),
    "a random state beyond its end": objects(
        ["random_state", "0", 10**9, 0, 0.0], tensors={"0": torch.zeros(624, dtype=torch.uint32)}
    ),
    "a random state of torch": objects(["torch.generator", "0"], tensors={"0": torch.zeros(5056, dtype=torch.uint8)}),
    "objects in numbers": objects(["array", "|O", None, "0"], tensors=ZEROS),
    "wide strings": objects(["array", "<U999999999", None, "0"], tensors={"0": torch.zeros(4, dtype=torch.uint32)}),
    "letters that are none": objects(
        ["array", "<U1", None, "0"], tensors={"0": torch.full((1, 1), 2**31, dtype=torch.uint32)}
    ),
    "records": objects(["array", "|V4", None, "0"], tensors=ZEROS),
    "an array with endless sides": objects(["array", "|O", [2**40], []]),
    "dimensions in no order": objects(["array", "<f4", [0, 0], "0"], tensors=ZEROS),
    "one tensor twice": objects(["array", "<f4", None, "0"], ["array", "<f4", None, "0"], tensors=ZEROS),
    "a tensor for nobody": objects(ESTIMATOR, ["object", [0], [], []], tensors=ZEROS),
    "strings that overlap": objects(
        ["list", {"str": "0", "ends": "1"}],
        tensors={"0": torch.zeros(4, dtype=torch.uint8), "1": torch.tensor([-5, 2**40])},
    ),
    "a truth value of seven": objects(
        ["tensor", "0", None, False, False], tensors={"0": torch.full((4,), 7, dtype=torch.uint8).view(torch.bool)}
    ),
    "a key twice in a dict": objects(["dict", ["a", "a"], [1, 2]]),
    "keys with one hash": objects(
        *(["int", hex(k * (2**61 - 1))] for k in range(10, 5010)), ["dict", [[k] for k in range(5000)], [0] * 5000]
    ),
    "more objects than skode writes": objects(*(["frequency", "D"] for _ in range(20_001))),
    "lists for nothing": header("}", text_of_document='"objects":[' + "[]," * 650_000 + "[]]}"),
    "frames for nothing": objects(
        ["range_index", 0, 0, 1, None], *(["frame", [0], [0], []] for _ in range(5000)), ["list", []]
    ),
    # the file
    "a newer format": objects(["list", []], format=FORMAT + 1),
    "a format that is none": objects(["list", []], format=True),
    "a header without end": signed(struct.pack("<Q", 2**63) + objects(["list", []])[8:]),
    "a long header": header("," + '"a":0,' * 400_000 + '"b":0}'),
    "deep JSON in the header": header(f',"0":{nested(100_000)}}}'),
    "deep JSON in the document": header("}", text_of_document=f'"a":{nested(100_000)}}}'),
    "quotes without end": header("}", text_of_document='"a":"' + '\\"' * 300_000),
    "a name twice in the document": header("}", text_of_document='"format":1,"format":1}'),
    "a name twice in the header": header(',"0":1,"0":1}'),
    "metadata twice": header(',"__metadata__":{"skode":"{}"}}'),
    "a long number": header("}", text_of_document='"format":' + "9" * 500_000 + "}"),
    "NaN in the document": header("}", text_of_document='"format":NaN}'),
    "tensors beyond the end": tensor({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
    "negative places": tensor({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}),
    "a tensor that is longer": tensor({"dtype": "F32", "shape": [8], "data_offsets": [0, 16]}),
    "tensors that overlap": header(
        ',"0":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"1":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b"\0" * 16,
    ),
    "sides that are fractions": tensor({"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}),
    "sides that are no numbers": header(',"0":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', b"\0" * 16),
    "an unknown dtype": tensor({"dtype": "PY", "shape": [4], "data_offsets": [0, 16]}),
    "bytes behind the tensors": signed(objects(["list", []]) + b"#!/bin/sh"),
}
