"""Bad settings: one line that names the key, what was expected, what was found, what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rwp.errors import UserError
from rwp.pipeline.checks import check_images
from rwp.pipeline.load import check_params, load_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.pipeline.settings import OTHER_COLUMNS, Params
from rwp.pipeline.steps import Steps, below
from rwp.reporting import tables
from rwp.strict_yaml import read_yaml, with_exponents
from tests.data.samples import write_passport

Change = Callable[[dict[str, Any]], Any]


def demo(settings: dict[str, Any]) -> dict[str, Any]:
    return settings["suites"]["demo"]


def with_recipe(settings: dict[str, Any], recipe: dict[str, Any], name: str = "mine") -> None:
    demo(settings)["recipes"][name] = recipe


def in_table2(settings: dict[str, Any], recipe: dict[str, Any]) -> None:
    with_recipe(settings, recipe)
    demo(settings)["table2"]["recipes"].append("mine")


def unlabeled(settings: dict[str, Any]) -> dict[str, Any]:
    return demo(settings)["objectives"]["rst"]["unlabeled"]


def attacks(settings: dict[str, Any]) -> dict[str, Any]:
    return demo(settings)["evaluation"]["attacks"]


def figure(settings: dict[str, Any], suite: str = "demo", **entry: Any) -> None:
    settings["suites"][suite]["figures"]["mine"] = entry


def without_test_curve(settings: dict[str, Any], **entry: Any) -> None:
    """A suite with one figure."""
    gone = dict.fromkeys(demo(settings)["figures"])
    suite = {"extends": "demo", "description": "d", "test_curve": False, "figures": gone}
    settings["suites"]["mine"] = suite | {"figures": gone | {"own": entry}}


CASES: dict[str, tuple[Change, str]] = {
    "restarts of an attack of one step": (
        lambda s: attacks(s).update(
            mine={"kind": "fgsm_random_start", "step_size": 0.1, "num_restarts": 2}
        ),
        r"mine: expected no num_restarts for fgsm_random_start, where .* got 2; leave it out",
    ),
    "batches without an unlabeled image": (
        lambda s: unlabeled(s).update(fraction=0),
        r"objectives\.rst\.unlabeled\.fraction: expected .*0, got 0",
    ),
    "a hash of a network's code": (
        lambda s: s["networks"].update(mine={"family": "a.b:c", "source": "9" * 16}),
        r"networks: mine\.source: expected none, as the hash .* is computed, got '9+'; remove it",
    ),
    "the best on a test curve that nobody measures": (
        lambda s: demo(s).update(test_curve=False, also_attacked={"best_on_test": ["at"]}),
        r"also_attacked\.best_on_test: expected test_curve true, by which it is chosen, got false",
    ),
    "an attack with the column of AutoAttack": (
        lambda s: attacks(s).update(aa={"kind": "pgd", "num_steps": 20, "num_restarts": 2}),
        r"attacks\.aa: expected a name that no other column .* got aa, that of autoattack; rename",
    ),
    "an attack with the column of PGD-20": (
        lambda s: attacks(s).update(pgd20={"kind": "pgd", "num_steps": 20, "num_restarts": 2}),
        r"attacks\.pgd20: expected a name that no other column .* got pgd20, that of pgd-20",
    ),
    "an attack called like the best epoch": (
        lambda s: attacks(s).update(best={"kind": "pgd", "num_steps": 20, "num_restarts": 2}),
        r"attacks\.best: expected a name that no other column of the tables has, got best",
    ),
    "an attack called like a deviation": (
        lambda s: attacks(s).update(pgd_std={"kind": "pgd", "num_steps": 20, "num_restarts": 2}),
        r"attacks\.pgd_std: expected a name that no other column .* got pgd_std; rename it",
    ),
    "no attack at all": (
        lambda s: (
            demo(s)["evaluation"].update(attacks={}),
            demo(s).update(beyond=None, reported=[]),
        ),
        r"evaluation\.attacks: expected at least 1, got 0",
    ),
    "a movement of nobody": (
        lambda s: (
            demo(s).update(keep_losses=True),
            figure(s, kind="movement", recipes=[], epoch=1, edges=[0, 1]),
        ),
        r"figures\.mine\.recipes: expected at least 1, got 0; add one",
    ),
    "curves of a training without an attack": (
        lambda s: figure(s, kind="curves", recipes=["at", "natural"], splits=["test"]),
        r"figures\.mine\.recipes: expected recipes that train with an attack, .* got natural",
    ),
    "a level line of a training without an attack": (
        lambda s: (
            demo(s)["sweeps"].update(g={"recipe": "at-awp", "vary": {"gamma": [0.03]}}),
            figure(s, kind="sweep", sweep="g", label="gamma", references=["natural"]),
        ),
        r"figures\.mine\.references: expected recipes that train with an attack, .* got natural",
    ),
    "a sweep of a training without an attack": (
        lambda s: (
            demo(s)["sweeps"].update(g={"recipe": "natural", "vary": {"learning_rate": [0.05]}}),
            figure(s, kind="sweep", sweep="g", label="epochs"),
        ),
        r"figures\.mine\.sweep g: expected recipes that train with an attack, .* got natural",
    ),
    "Table 1 of a training without an attack": (
        lambda s: demo(s)["table1"]["recipes"].append("natural"),
        r"table1\.recipes: expected recipes that train with an attack, .* got natural",
    ),
    "curves of held-out images where none are": (
        lambda s: figure(s, "paper", kind="curves", recipes=["at"], splits=["held-out"]),
        r"figures\.mine: expected a suite that holds images out, got selection test",
    ),
    "a search on held-out images where none are": (
        lambda s: (
            s["suites"]["paper"]["sweeps"].update(
                g={"recipe": "at-awp", "vary": {"gamma": [0.02]}}
            ),
            figure(s, "paper", kind="search", sweeps=["g"]),
        ),
        r"figures\.mine: expected a suite that holds images out, got selection test",
    ),
    "a teacher by threat model": (
        lambda s: unlabeled(s).update(teacher_network={"linf": "small", "l2": "preact-resnet-18"}),
        r"unlabeled\.teacher_network: expected data sets, .* got 'linf'; name one teacher for each",
    ),
    "a sweep with names longer than a folder's": (
        lambda s: demo(s).update(
            sweeps={
                "g": {
                    "recipe": "at-rwp",
                    "vary": {
                        "mask": ["below"],
                        "num_weight_steps": [2],
                        "norm_scope": ["layer"],
                        "warmup_epochs": [1],
                    },
                }
            }
        ),
        r"expected a name of at most 64 characters, got 69 .*vary fewer settings at once",
    ),
    "a step longer than any picture": (
        lambda s: demo(s)["threat_models"]["linf"].update(step_size=2),
        r"threat_models\.linf\.step_size.*expected a radius in \(0, 1\] .* got 2; did you mean",
    ),
    "a number beyond what a computer holds, as a text": (
        lambda s: demo(s)["training"].update(learning_rate="1e500"),
        r"training\.learning_rate: expected number, got '1e500'; write a finite number",
    ),
    "two objectives that share pseudo-labels": (
        lambda s: (
            demo(s)["objectives"].update(
                rst2={**demo(s)["objectives"]["rst"], "unlabeled": {**unlabeled(s)}}
            ),
            demo(s)["objectives"]["rst2"]["unlabeled"].update(min_confidence=0.95),
        ),
        r"objectives\.rst2\.unlabeled\.min_confidence: expected that of rst, whose pseudo-labels "
        r"of digits-holdout it shares \(None\), got 0\.95; give the source a second name",
    ),
    "a teacher with a teacher of its own": (
        lambda s: demo(s)["objectives"]["natural"].update(unlabeled={**unlabeled(s)}),
        r"teacher_recipe: expected a recipe that trains on labeled images alone, got natural",
    ),
    "a radius by objective": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon={"default": 0.1, "rst": 0.03}),
        r"threat_models\.linf\.epsilon: expected no name of an objective, .* 'rst'; training has",
    ),
    "an attack's step by objective": (
        lambda s: demo(s)["evaluation"]["attacks"]["pgd-20"].update(
            step_size={"default": 0.03, "trades": 0.01}
        ),
        r"attacks\.pgd-20\.step_size: expected no name of an objective, .* got 'trades'",
    ),
    "a network by network": (
        lambda s: demo(s).update(network={"default": "small", "preact-resnet-18": "small"}),
        r"network: expected no name of a network, .* got 'preact-resnet-18'; name data sets",
    ),
    "a table's network by network": (
        lambda s: demo(s)["table1"].update(network={"default": "small", "small": "small"}),
        r"table1\.network: expected no name of a network, .* got 'small'; name data sets",
    ),
    "a seed that AutoAttack cannot take": (
        lambda s: demo(s)["evaluation"].update(seed=2**70),
        r"evaluation\.seed: expected at most 9223372036854775807, got 1180591620717411303424",
    ),
    "clean updates of a loss that has no clean pass": (
        lambda s: demo(s)["objectives"]["at"].update(clean_updates=2),
        r"clean_updates: expected it with the loss trades alone, got 2 with at; leave it out",
    ),
    "a reference of table 2 that is not there": (
        lambda s: demo(s)["table2"].update(reference_recipe="nope"),
        r"table2\.reference_recipe: expected a recipe \(.*\), got 'nope'",
    ),
    "a reference of table 2 that is attacked": (
        lambda s: demo(s)["table2"].update(reference_recipe="at"),
        r"table2\.reference_recipe: expected a recipe that trains without an attack, got at with",
    ),
    "a network of a table that is not there": (
        lambda s: demo(s)["table1"].update(network="nope"),
        r"suites\.demo\.table1\.network: expected a network",
    ),
    "a figure with the name of a table": (
        lambda s: demo(s)["figures"].update(claims=demo(s)["figures"]["fig1b"]),
        r"figures\.claims: expected a name that no other file of the suite has \(table1, ",
    ),
    "a figure with the name of a table's details": (
        lambda s: demo(s)["figures"].update(table1_details=demo(s)["figures"]["fig1b"]),
        r"figures\.table1_details: expected a name that no other file of the suite has",
    ),
    "a landscape of a natural network": (
        lambda s: demo(s)["figures"]["fig2"].update(recipe="natural"),
        r"figures\.fig2\.recipe: expected a recipe that trains with an attack, .* got natural",
    ),
    "a source with the name of a data set": (
        lambda s: s["unlabeled"].update(digits=s["unlabeled"]["digits-holdout"]),
        r"datasets\.digits: expected a name that no source under unlabeled",
    ),
    "a data set with the name of the folder of sources": (
        lambda s: s["datasets"].update(unlabeled=s["datasets"]["digits"]),
        r"datasets\.unlabeled: expected a name that no source under unlabeled",
    ),
    "a source for a data set that is not there": (
        lambda s: s["unlabeled"].update(mine={"kind": "npz", "path": "m.npz", "dataset": "nope"}),
        r"unlabeled\.mine\.dataset: expected a data set \(.*got 'nope'",
    ),
    "a suite with the name of a file": (
        lambda s: s["suites"].update({"table2.csv": {"extends": "demo"}}),
        r"suites\.table2\.csv: expected a name that is no folder of results .* and no file, got",
    ),
    "a suite with the name of the folder of models from elsewhere": (
        lambda s: s["suites"].update(external={"extends": "demo"}),
        r"suites\.external: expected a name that is no folder of results",
    ),
    "a sweep over nothing at all": (
        lambda s: demo(s)["sweeps"].update(mine={"recipe": "at", "vary": {"flip": [None]}}),
        r"sweeps\.mine: vary\.flip: expected values, got null, which changes nothing",
    ),
    "a group of nothing beyond the paper": (
        lambda s: demo(s)["beyond"]["groups"].append({"title": "mine"}),
        r"beyond\.groups\.\d+: expected recipes or sweeps, got none; name some",
    ),
    "a start at a file without a name": (
        lambda s: with_recipe(s, {"objective": "at", "start": {"file": ""}}),
        r"recipes\.mine\.start: expected a recipe \(with an epoch\) or a file, got none",
    ),
    "a folder of images without a name": (
        lambda s: s["datasets"].update(mine={"source": "image_folder", "path": ""}),
        r"datasets\.mine: expected a path for an image_folder, got none",
    ),
    "null for a list": (
        lambda s: demo(s).update(seeds=None),
        r"suites\.demo\.seeds: expected a list, got None( \(and \d+ more\))?$",
    ),
    "a list for a table": (
        lambda s: demo(s)["evaluation"].update(attacks=["pgd"]),
        r"evaluation\.attacks: expected a table, got \['pgd'\]",
    ),
    "a figure without a kind": (
        lambda s: demo(s)["figures"].update(mine={"recipes": ["at"]}),
        r"figures\.mine\.kind: expected a value, got none; add it",
    ),
    "a figure of another kind": (
        lambda s: demo(s)["figures"]["fig1b"].update(kind="pie"),
        r"figures\.fig1b\.kind: expected curves, sweep, .*, got 'pie'; check the spelling",
    ),
    "a figure of nothing": (
        lambda s: demo(s)["figures"]["fig1b"].update(recipes=[]),
        r"figures\.fig1b\.recipes: expected at least 1, got 0; add one",
    ),
    "loss groups without an edge": (
        lambda s: demo(s)["figures"]["fig2"].update(edges=[0.5]),
        r"figures\.fig2\.edges: expected at least 2, got 1; add one",
    ),
    "a table of nothing": (
        lambda s: demo(s)["table2"].update(recipes=[]),
        r"table2\.recipes: expected at least 1, got 0; add one",
    ),
    "a table beyond the paper without attacks": (
        lambda s: demo(s)["beyond"].update(attacks=[]),
        r"beyond\.attacks: expected at least 1, got 0; add one",
    ),
    "a sweep over nothing": (
        lambda s: demo(s)["sweeps"]["removal"].update(vary={}),
        r"sweeps\.removal: vary: expected settings with their values, got none; add one",
    ),
    "a radius as long as a page": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon="9" * 5000 + "/" + "9" * 5000),
        r"linf\.epsilon: expected a radius such as 8/255, got '9{79}\.\.\.",
    ),
    "epochs without end": (
        lambda s: demo(s)["training"].update(epochs=10**9),
        r"training\.epochs: expected at most 100000, got 1000000000; lower it",
    ),
    "a momentum that grows": (
        lambda s: demo(s)["training"].update(momentum=1.5),
        r"training\.momentum: expected a share in \[0, 1\), got 1\.5",
    ),
    "a network without stages": (
        lambda s: s["networks"]["small"].update(blocks=[]),
        r"networks\.small: blocks: expected a number for each stage, got none; add one",
    ),
    "a network without blocks": (
        lambda s: s["networks"]["wrn-28-10"].update(depth=4),
        r"networks\.wrn-28-10: expected a depth of 10 or more, got 4",
    ),
    "a teacher that needs a teacher": (
        lambda s: unlabeled(s).update(teacher_recipe="rst"),
        r"unlabeled\.teacher_recipe: expected a recipe that trains without an attack, got rst; ",
    ),
    "a teacher of no network": (
        lambda s: unlabeled(s).update(teacher_network="large"),
        r"unlabeled\.teacher_network: expected a network \(.*\), got 'large'; check the",
    ),
    "epsilon of 8": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon=8),
        r"threat_models\.linf\.epsilon.*expected a radius in \(0, 1\] on \[0, 1\] pixels, got 8;"
        r" did you mean 8/255\?",
    ),
    "a bad value in a table in a table": (
        lambda s: demo(s)["training"].update(flip={"default": False, "at": {"digits": 1}}),
        r"suites\.demo\.training\.flip\.at\.digits: expected boolean, got 1",
    ),
    "a bad value for every setting": (
        lambda s: demo(s)["training"].update(flip=1),
        r"suites\.demo\.training\.flip: expected boolean, got 1",
    ),
    "one setting in two ways": (
        lambda s: demo(s)["training"].update(flip={"at/digits": True, "digits": {"at": False}}),
        r"training\.flip: expected one value for digits/at, got two \(also at/digits\)",
    ),
    "a suite named like a folder of results": (
        lambda s: s["suites"].update(runs=s["suites"]["demo"]),
        r"suites\.runs: expected a name that is no folder of results .*, got 'runs'",
    ),
    "a radius on 0..255 pixels in the L2 norm": (
        lambda s: demo(s)["threat_models"]["l2"].update(epsilon=128),
        r"threat_models\.l2\.epsilon.*expected a radius in \(0, 5\] on \[0, 1\] pixels, got 128;"
        r" did you mean 128/255\?",
    ),
    "epsilon is a word": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon="big"),
        r"expected a radius such as 8/255, got 'big'",
    ),
    "a learning rate that is no number": (
        lambda s: demo(s)["training"].update(learning_rate=float("nan")),
        r"training\.learning_rate.*expected a finite number, got nan",
    ),
    "an infinite gamma": (
        lambda s: demo(s)["perturbations"]["awp"].update(gamma=float("inf")),
        r"perturbations\.awp\.gamma.*expected a finite number, got inf",
    ),
    "a number of 400 digits": (
        lambda s: demo(s)["training"].update(epochs=-(10**400)),
        r"training\.epochs.*expected ",
    ),
    "a radius of 400 digits": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon="1e400"),
        r"threat_models\.linf\.epsilon.*expected a radius such as 8/255, got '1e400'",
    ),
    "a recipe twice in a table": (
        lambda s: demo(s)["table2"]["recipes"].append("at"),
        r"table2\.recipes: expected each name once, got at twice; leave one out",
    ),
    "a data set twice in a table": (
        lambda s: demo(s)["table1"].update(datasets=["digits", "digits"]),
        r"table1\.datasets: expected each name once, got digits twice",
    ),
    "a threat model twice in a table": (
        lambda s: demo(s)["table1"].update(threat_models=["linf", "linf"]),
        r"table1\.threat_models: expected each name once, got linf twice",
    ),
    "a value twice in a sweep": (
        lambda s: demo(s)["sweeps"]["c-min"].update(vary={"c_min": [1.5, 1.7, 1.50000001]}),
        r"vary\.c_min: expected values that differ in their first six digits, got 1\.5 twice",
    ),
    "more curve images than wanted where they choose": (
        lambda s: s["suites"]["paper"].update(curve_examples=2000),
        r"suites\.paper: curve_examples: expected none with selection test, .*got 2000; leave",
    ),
    "a cheaper selection where nothing is held out": (
        lambda s: s["suites"]["paper"].update(selection_num_steps=2),
        r"selection_num_steps: expected none with selection test, .*got 2; leave it out",
    ),
    "one step of a selection where nothing is held out": (
        lambda s: s["suites"]["paper"].update(selection_num_steps=1),
        r"selection_num_steps: expected none with selection test, .*got 1; leave it out",
    ),
    "a radius of L-inf under L2": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon={"default": 0.1, "l2": 0.3}),
        r"threat_models\.linf\.epsilon: expected no name of a threat model but linf, .* got 'l2'",
    ),
    "unlabeled images of another objective": (
        lambda s: unlabeled(s).update(epoch_size={"default": 960, "trades": 100}),
        r"rst\.unlabeled\.epoch_size: expected no name of an objective but rst, .* got 'trades'",
    ),
    "a folder of unlabeled images without its place": (
        lambda s: s["unlabeled"].update(mine={"kind": "image_folder", "dataset": "digits"}),
        r"unlabeled\.mine: path: expected one for image_folder, got none; add it",
    ),
    "a folder of unlabeled images without its data set": (
        lambda s: s["unlabeled"].update(mine={"kind": "image_folder", "path": "mine"}),
        r"unlabeled\.mine: dataset: expected one for image_folder, got none; add it",
    ),
    "a holdout of nothing": (
        lambda s: s["unlabeled"]["digits-holdout"].pop("dataset"),
        r"digits-holdout: dataset: expected one for holdout, got none; add it",
    ),
    "an attack on more images than its evaluation": (
        lambda s: s["suites"]["quick"]["evaluation"]["attacks"]["fgsm"].update(num_examples=2001),
        r"attacks\.fgsm\.num_examples: expected at most the 2000 of the evaluation, got 2001",
    ),
    "more images of a class than there are digits": (
        lambda s: s["datasets"]["digits"].update(per_class=175),
        r"digits: per_class: expected at most 174, as many as digits has, got 175; lower it",
    ),
    "more images of a class than the official files have": (
        lambda s: s["datasets"]["cifar10-16"].update(per_class=5001),
        r"datasets\.cifar10-16.*per_class: expected at most 5000, .*got 5001; lower it",
    ),
    "larger images than the official files have": (
        lambda s: s["datasets"]["cifar10-16"].update(image_size=48),
        r"datasets\.cifar10-16.*image_size: expected at most 32, .*got 48; lower it",
    ),
    "PGD of no steps": (
        lambda s: demo(s)["evaluation"]["attacks"]["pgd-20"].pop("num_steps"),
        r"evaluation\.attacks\.pgd-20: expected num_steps for pgd, got none; add num_steps",
    ),
    "negative epochs": (
        lambda s: demo(s)["training"].update(epochs=-1),
        r"training\.epochs.*expected a number above 0, got -1",
    ),
    "epochs as text": (
        lambda s: demo(s)["training"].update(epochs="ten"),
        r"training\.epochs.*expected integer, got 'ten'",
    ),
    "misspelt key": (
        lambda s: demo(s).update(trian=1),
        r"suites\.demo\.trian: expected a known key, got 'trian'; did you mean 'train",
    ),
    "misspelt key of a needed one": (
        lambda s: demo(s).update(seds=demo(s).pop("seeds")),
        r"suites\.demo\.seds: expected a known key, got 'seds'; did you mean 'seeds'",
    ),
    "misspelt key of a network": (
        lambda s: s["networks"]["small"].update(widht=8),
        r"networks\.small\.widht: expected a known key, got 'widht'; did you mean 'width'",
    ),
    "misspelt key of a data set": (
        lambda s: s["datasets"]["digits"].update(image_sze=8),
        r"datasets\.digits\.image_sze: expected a known key, got 'image_sze'; did you mean 'image_",
    ),
    "options of an own network beside its name": (
        lambda s: s["networks"].update(mine={"family": "own.nets:tiny", "width": 8}),
        r"networks\.mine\.width: expected a known key, got 'width'; put it under options",
    ),
    "misspelt network of a suite whose tables name theirs": (
        lambda s: demo(s).update(network="smal"),
        r"suites\.demo\.network: expected a network \(.*, got 'smal'; check the spelling",
    ),
    "missing key": (
        lambda s: demo(s).pop("seeds"),
        r"suites\.demo\.seeds: expected a value, got none; add it",
    ),
    "unknown suite to build": (
        lambda s: s.update(build=["dmeo"]),
        r"build: expected a suite \(demo, demo-full, .*, paper\), got 'dmeo'; check the",
    ),
    "unknown objective": (
        lambda s: demo(s)["recipes"]["at"].update(objective="att"),
        r"recipes\.at\.objective: expected an objective .*got 'att'",
    ),
    "unknown data set in a table": (
        lambda s: demo(s)["table2"].update(dataset="mnist"),
        r"table2: expected a data set .*got 'mnist'",
    ),
    "setting for nothing that exists": (
        lambda s: demo(s)["perturbations"]["rwp"].update(c_min={"digts": 1.7}),
        r"perturbations\.rwp\.c_min: expected a data set, threat model.*got 'digts'",
    ),
    "a name that is a command": (
        lambda s: demo(s)["recipes"].update({"x; rm -rf": {"objective": "at"}}),
        r"expected a name of lower-case letters.*got 'x; rm -rf'",
    ),
    "beta missing": (
        lambda s: demo(s)["objectives"]["trades"].pop("beta"),
        r"objectives\.trades: expected beta with the losses trades and mart",
    ),
    "RST without an unlabeled source": (
        lambda s: s["unlabeled"].pop("digits-holdout"),
        r"objectives\.rst\.unlabeled\.source: expected an unlabeled source .*got 'digits-holdout'",
    ),
    "holdout of a data set without one": (
        lambda s: s["datasets"]["digits"].pop("unlabeled_share"),
        r"unlabeled\.digits-holdout\.dataset: expected a data set with an unlabeled_share",
    ),
    "held-out selection without a held-out split": (
        lambda s: demo(s).update(held_out_fraction=0),
        r"selection held_out: expected a held_out_fraction above 0, got 0",
    ),
    "a decay after the last epoch": (
        lambda s: demo(s)["training"].update(decay_epochs=[10, 16]),
        r"training: decay_epochs: expected epochs before the end of training \(16 epochs\), got 16",
    ),
    "a decay that goes backwards": (
        lambda s: demo(s)["training"].update(decay_epochs=[14, 10]),
        r"decay_epochs: expected rising epochs, got \[14, 10\]; order them",
    ),
    "a learning rate that would grow": (
        lambda s: demo(s)["training"].update(decay_factor=10),
        r"decay_factor: expected a number below 1, .* got 10; did you mean 0\.1\?",
    ),
    "a mean per channel of another kind of image": (
        lambda s: s["datasets"]["digits"].update(mean=[0.3] * 3, std=[0.4] * 3),
        r"digits: mean: expected 1 numbers, one per channel of digits, got 3; correct it, or leave",
    ),
    "a mean on the bytes": (
        lambda s: s["datasets"]["cifar10"].update(mean=[125.3, 123.0, 113.9]),
        r"cifar10: mean: expected numbers in \[0, 1\] .*, got 125\.3; did you mean 0\.4914\?",
    ),
    "a std of nothing": (
        lambda s: s["datasets"]["cifar10"].update(std=[0.2, 0.0, 0.2]),
        r"cifar10: std: expected numbers in \(0, 1\] on \[0, 1\] pixels, got 0",
    ),
    "mean and std of different length": (
        lambda s: s["datasets"]["cifar10-jpeg"].update(std=[0.2]),
        r"std: expected as many numbers as mean has \(3\), got 1; give one per channel",
    ),
    "a path that nobody reads": (
        lambda s: s["datasets"]["cifar10"].update(path="data/mine"),
        r"cifar10: expected no path for cifar10, where it would have no effect, got data/mine",
    ),
    "a size that nobody resizes to": (
        lambda s: s["datasets"]["digits"].update(image_size=16),
        r"digits.*image_size: expected at most 8, as many as digits has, got 16; lower it",
    ),
    "an unlabeled source's address that nobody reads": (
        lambda s: s["unlabeled"]["digits-holdout"].update(url="https://example.org/x.npz"),
        r"digits-holdout: expected no url for holdout, where it would have no effect, got https:",
    ),
    "an unlabeled source's hash that nobody compares": (
        lambda s: s["unlabeled"]["svhn-extra"].update(sha256="0" * 64),
        r"svhn-extra: expected no sha256 for svhn-extra, where it would have no effect, got 000",
    ),
    "an unlabeled source in two places": (
        lambda s: s["unlabeled"]["edm-1m"].update(path="data/1m.npz"),
        r"edm-1m: expected path or url, got both \(data/1m\.npz and https:.*\); keep one",
    ),
    "a hash that is cut": (
        lambda s: s["unlabeled"]["edm-1m"].update(sha256="abc"),
        r"edm-1m: sha256: expected 64 hexadecimal digits, got 'abc'; copy it again",
    ),
    "steps of an attack that takes one": (
        lambda s: demo(s)["evaluation"]["attacks"]["fgsm"].update(num_steps=20),
        r"attacks\.fgsm.*: expected no num_steps for fgsm, where it would have no effect, got 20",
    ),
    "restarts of AutoAttack": (
        lambda s: demo(s)["evaluation"]["attacks"]["autoattack"].update(num_restarts=5),
        r"expected no num_restarts for autoattack, where it would have no effect, got 5",
    ),
    "a loss range for AWP": (
        lambda s: demo(s)["perturbations"]["awp"].update(c_min=1.7),
        r"perturbations\.awp: expected no c_min and c_max with mask all",
    ),
    "a recipe's loss range for AWP": (
        lambda s: demo(s)["recipes"]["at-awp"].update(change={"c_min": 1.7}),
        r"recipes\.at-awp\.change\.c_min: expected none with mask all.*got 1\.7",
    ),
    "a sweep of what no test curve shows": (
        lambda s: without_test_curve(s, kind="sweep", sweep="c-min", label="c_min"),
        r"figures\.own: expected a suite that measures test images in each epoch, got test_curve f",
    ),
    "a removal of which no test curve is measured": (
        lambda s: without_test_curve(s, kind="removal", sweep="removal"),
        r"figures\.own: expected a suite that measures test images in each epoch",
    ),
    "a test curve that nobody measures": (
        lambda s: without_test_curve(s, kind="curves", recipes=["at"], splits=["train", "test"]),
        r"figures\.own: expected a suite that measures test images in each epoch",
    ),
    "one of two splits that nobody holds out": (
        lambda s: figure(s, "paper", kind="curves", recipes=["at"], splits=["test", "held-out"]),
        r"figures\.mine: expected a suite that holds images out, got selection test",
    ),
    "a removal that removes nothing": (
        lambda s: (
            demo(s)["sweeps"].update(g={"recipe": "at-rwp", "vary": {"gamma": [0.1]}}),
            figure(s, kind="removal", sweep="g"),
        ),
        r"mine\.sweep: expected a sweep that varies remove_below, got g, which varies gamma; name",
    ),
    "a criterion that is the objective": (
        lambda s: with_recipe(
            s,
            {"objective": "at", "perturbation": "rwp", "change": {"criterion": "adversarial_ce"}},
        ),
        r"mine\.change\.criterion: expected none with at, which minimizes that very cross-entropy",
    ),
    "a table of no values": (
        lambda s: demo(s)["training"].update(epochs={}, decay_epochs=[]),
        r"training\.epochs: expected a value, or a table of values, got an empty one; add one",
    ),
    "an inner table of no values": (
        lambda s: demo(s)["training"].update(weight_decay={"default": 0.1, "at": {}}),
        r"training\.weight_decay: expected a value, or a table of values, got an empty one",
    ),
    "numbers in quotes": (
        lambda s: demo(s)["training"].update(batch_size="64"),
        r"batch_size.*expected integer, got '64'; write 64 without quotes",
    ),
    "a small number in quotes": (
        lambda s: demo(s)["training"].update(weight_decay="5e-4"),
        r"weight_decay.*expected number, got '5e-4'; write 0\.0005 without quotes",
    ),
    "a name that YAML reads as a number": (
        lambda s: demo(s)["table2"].update(dataset=20.0),  # 2e1 without quotes
        r"table2\.dataset: expected a text, got 20\.0; put it in quotes if the text is meant",
    ),
    "a text in a number's place": (
        lambda s: demo(s)["training"].update(momentum="0.1"),
        r"momentum.*expected number, got '0\.1'; write 0\.1 without quotes",
    ),
    "a word for true": (
        lambda s: demo(s)["training"].update(flip="yes"),
        r"flip.*expected boolean, got 'yes'; write true or false",
    ),
    "a single seed": (
        lambda s: demo(s).update(seeds=0),
        r"seeds: expected.*, got 0; write it as a list: \[0\]",
    ),
    "two ways to take a part": (
        lambda s: demo(s)["evaluation"].update(num_examples=40, first_examples=40),
        r"evaluation: expected num_examples \(stratified\) or first_examples .*got both",
    ),
    "the same seed twice": (
        lambda s: demo(s).update(seeds=[0, 0]),
        r"seeds: expected distinct seeds, got \[0, 0\]",
    ),
    "a name that says other steps": (
        lambda s: demo(s)["evaluation"]["attacks"]["pgd-20"].update(num_steps=10),
        r"attacks\.pgd-20: expected 20 steps of an attack named pgd-20, got 10; rename it or",
    ),
    "a name that says another attack": (
        lambda s: demo(s)["evaluation"]["attacks"].update(autoattack={"kind": "fgsm"}),
        r"attacks\.autoattack: expected an attack named autoattack to be autoattack, got fgsm",
    ),
    "a name that says another loss": (
        lambda s: demo(s)["evaluation"]["attacks"].update(
            {"cw-20": {"kind": "pgd", "num_steps": 20}}
        ),
        r"attacks\.cw-20: expected an attack named cw-20 to be cw or cw_zero_masked, got pgd",
    ),
    "a name that says another version": (
        lambda s: demo(s)["evaluation"]["attacks"].update(
            {"autoattack-standard": {"kind": "autoattack", "version": "lite"}}
        ),
        r"expected version standard of an attack named autoattack-standard, got lite; rename it",
    ),
    "one attack under two names": (
        lambda s: demo(s)["evaluation"]["attacks"].update(mine={"kind": "pgd", "num_steps": 20}),
        r"attacks\.mine: expected attacks that differ, got the settings of pgd-20; leave one out",
    ),
    "a curve twice in a figure": (
        lambda s: demo(s)["figures"]["fig1b"].update(splits=["test", "test"]),
        r"figures\.fig1b\.splits: expected each name once, got test twice",
    ),
    "loss groups that overlap": (
        lambda s: demo(s)["figures"]["fig2"].update(edges=[0.0, 1.0, 0.5]),
        r"figures\.fig2: edges: expected rising numbers, got \[0\.0, 1\.0, 0\.5\]; order them",
    ),
    "a key of another table": (
        lambda s: demo(s)["table1"].update(seeds=[0]),
        r"table1\.seeds: expected a known key, got 'seeds', which is a key of other tables; move",
    ),
    "wide network of an impossible depth": (
        lambda s: s["networks"]["wrn-28-10"].update(depth=29),
        r"networks\.wrn-28-10.*expected a depth of 6n \+ 4, got 29",
    ),
    "a c_max that the mask does not look at": (
        lambda s: demo(s)["perturbations"]["rwp"].update(c_max=3),
        r"perturbations\.rwp: expected no c_max with mask below, where it would have no effect",
    ),
    "a setting beside a loss of one's own": (
        lambda s: demo(s)["objectives"]["at"].update(loss="own.mine:Loss", label_smoothing=0.1),
        r"objectives\.at: expected the settings of own.mine:Loss under options, got label_smoot",
    ),
    "a change beside a loss of one's own": (
        lambda s: (
            demo(s)["objectives"].update(mine={"loss": "own.mine:Loss"}),
            with_recipe(s, {"objective": "mine", "change": {"label_smoothing": 0.1}}),
        ),
        r"recipes\.mine\.change\.label_smoothing: expected another objective, got own.mine:Loss",
    ),
    "a change of a perturbation of one's own": (
        lambda s: (
            demo(s)["perturbations"].update(mine={"factory": "own.mine:climb"}),
            with_recipe(
                s, {"objective": "at", "perturbation": "mine", "change": {"num_weight_steps": 2}}
            ),
        ),
        r"recipes\.mine\.change\.num_weight_steps: expected none with the perturbation own.mine:cl",
    ),
    "a c_min beside a mask of one's own": (
        lambda s: (
            demo(s)["perturbations"].update(
                mine=demo(s)["perturbations"]["awp"] | {"mask": "own.mine:mask"}
            ),
            with_recipe(s, {"objective": "at", "perturbation": "mine", "change": {"c_min": 1}}),
        ),
        r"recipes\.mine\.change\.c_min: expected none with mask own.mine:mask, where it would have",
    ),
    "a network with the name of a data set": (
        lambda s: s["networks"].update(digits=s["networks"]["small"]),
        r"suites\.\w+: expected names that tell .* apart .*, got 'digits', a network, which means a"
        r" data set there; rename",
    ),
    "an objective called default": (
        lambda s: demo(s)["objectives"].update(default={"loss": "at"}),
        r"suites\.demo: expected names .*, got 'default', an objective, which means any other name",
    ),
    "a recipe with the name of a sweep's": (
        lambda s: (
            demo(s)["sweeps"].update(more={"recipe": "at", "vary": {"weight_decay": [0.25]}}),
            with_recipe(s, {"objective": "trades"}, name="at-weight_decay-0.25"),
        ),
        r"recipes\.at-weight_decay-0\.25: expected the settings of the sweep over weight_decay",
    ),
    "two sweeps of one recipe on other numbers of seeds": (
        lambda s: demo(s)["sweeps"].update(
            one={"recipe": "at", "vary": {"weight_decay": [0.25]}},
            two={"recipe": "at", "vary": {"weight_decay": [0.25, 0.5]}, "num_seeds": 1},
        ),
        r"recipes\.at-weight_decay-0\.25: .*let both sweeps have the same num_seeds",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line(name: str, settings: dict[str, Any]) -> None:
    change, message = CASES[name]
    change(settings)
    with pytest.raises(UserError) as caught:
        check_params(settings)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text
    assert text.startswith("params.yaml: ")


SHORT = {"objective": "at", "perturbation": "rwp", "change": {"epochs": 5, "decay_epochs": [2]}}
UNRESOLVED: dict[str, tuple[Change, str]] = {
    "reflection of more than the image": (
        lambda s: demo(s)["training"].update(crop_padding=8, padding_mode="reflect"),
        r"training.crop_padding: expected less than the image side 8 when reflecting, got 8",
    ),
    "batches that round to no unlabeled image": (
        lambda s: unlabeled(s).update(fraction=0.001),
        r"objectives\.rst\.unlabeled\.fraction: expected a share that gives a batch "
        r"of \d+ both labeled and unlabeled images, got 0\.001; raise it",
    ),
    "batches that round to no labeled image": (
        lambda s: unlabeled(s).update(fraction=0.999),
        r"objectives\.rst\.unlabeled\.fraction: expected a share .*, got 0\.999; lower it",
    ),
    "a hold-out of another data set": (
        lambda s: unlabeled(s).update(source="cifar10-16-holdout"),
        r"objectives\.rst\.unlabeled\.source: expected a source whose dataset is "
        r"digits, .*, got cifar10-16-holdout, whose dataset is cifar10-16; name a source for each",
    ),
    "unlabeled images like those of another data set": (
        lambda s: unlabeled(s).update(source="tinyimages-500k"),
        r"objectives\.rst\.unlabeled\.source: expected images for digits \(digits\), got "
        r"tinyimages-500k of the kind tinyimages-500k, which is for cifar10 at 32 pixels; name",
    ),
    "a warm-up as long as the recipe's own epochs": (
        lambda s: in_table2(s, SHORT | {"change": {"epochs": 3, "decay_epochs": [2]}}),
        r"perturbations\.rwp\.warmup_epochs: expected fewer than the 3 epochs of .*, got 3,",
    ),
    "Nesterov's momentum of none": (
        lambda s: in_table2(s, SHORT | {"change": {"nesterov": True, "momentum": 0}}),
        r"training\.nesterov: expected a momentum above 0 with it, got 0 for .*; raise momentum",
    ),
    "decays after the end of some trainings": (
        lambda s: demo(s)["training"].update(epochs={"default": 16, "trades": 8}),
        r"training \(digits/linf/small/trades\): decay_epochs: expected epochs before the end of",
    ),
    "a landscape after the end of its recipe": (
        lambda s: (
            demo(s).update(reported=["fig2"]),
            demo(s)["figures"]["fig2"].update(recipe="mine"),
        ),
        r"figures\.fig2\.epochs: expected at most the 5 epochs of demo/.*/mine/seed0, got 16;",
    ),
    "a movement after the end of its recipe": (
        lambda s: (
            demo(s).update(keep_losses=True, reported=["moves"]),
            demo(s)["figures"].update(
                moves={"kind": "movement", "recipes": ["at", "mine"], "epoch": 5, "edges": [0, 1]}
            ),
        ),
        r"figures\.moves\.epoch: expected at most 4, the last of demo/.*/mine/seed0 from 0, got 5;",
    ),
    "layers in the wrong order": (
        lambda s: (
            demo(s)["table2"]["recipes"].append("mine"),
            demo(s)["recipes"]["mine"].update(change={"layers": [-1, 0]}),
        ),
        r"recipes\.mine: layers: expected the first and the last layer, got \[-1, 0\], which are",
    ),
}


@pytest.mark.parametrize(
    "text", ["8/25 5", "8_0/255", "\u0668/255", "8/255/1", "0. 031", "\uff18/255"]
)
def test_a_radius_is_written_in_plain_digits(settings: dict[str, Any], text: str) -> None:
    linf = settings["suites"]["demo"]["threat_models"]["linf"]
    linf["epsilon"] = text
    with pytest.raises(UserError, match=r"linf\.epsilon: expected a radius such as 8/255, got"):
        check_params(settings)
    linf["epsilon"] = " 31 / 255"
    entry = check_params(settings).suites["demo"].threat_models["linf"]
    assert entry.epsilon == {"default": "31/255"}


IN_VAIN: dict[str, tuple[dict[str, Any], str]] = {
    "null": ({"c_min": None}, r"change\.c_min: expected a value, got null, which changes nothing"),
    "a bound beside a range": (
        {"loss_range": [0, 1], "c_min": 1.0},
        r"change\.loss_range: expected no c_min beside it, .*, got 1\.0; leave one of them out",
    ),
    "a mask beside a range": (
        {"loss_range": [0, 1], "mask": "random"},
        r"change\.loss_range: expected no mask beside it, .*, got random; leave one of them out",
    ),
    "a criterion of no mask": (
        {"mask": "all", "criterion": "adversarial_ce"},
        r"change\.criterion: expected none with mask all, where it would have no effect, got",
    ),
}


@pytest.mark.parametrize("name", IN_VAIN)
def test_a_change_without_effect_is_refused(name: str, settings: dict[str, Any]) -> None:
    change, message = IN_VAIN[name]
    with_recipe(settings, {"objective": "trades", "perturbation": "rwp", "change": change})
    with pytest.raises(UserError, match=f"^params.yaml: suites.demo.recipes.[a-z-]+.{message}"):
        check_params(settings)


def test_steps_of_an_attack_that_natural_training_has_not(settings: dict[str, Any]) -> None:
    with_recipe(settings, {"objective": "natural", "attack_num_steps": 5})
    with pytest.raises(UserError, match=r"attack_num_steps: expected an objective with an attack"):
        check_params(settings)


@pytest.mark.parametrize(
    "own",
    [
        {"evaluation": {"curve_examples": None}},
        {"training": {"selection_num_steps": None}},
        {"num_examples": None},
        {"recipes": {"at-rwp": {"c_min": None}}},
        {"evaluation": {"attacks": {"pgd-20": {"curve_examples": None}}}},
    ],
)
def test_null_for_a_key_of_another_table_is_refused(
    settings: dict[str, Any], own: dict[str, Any]
) -> None:
    """The inherited setting would stay, and nobody would say so."""
    settings["suites"]["own"] = {"extends": "demo", "description": "d", **own}
    with pytest.raises(UserError, match=r"suites\.own\..*expected a known key, got "):
        check_params(settings)


def test_null_takes_an_inherited_change_away(settings: dict[str, Any]) -> None:
    suites = settings["suites"]
    with_recipe(settings, {"objective": "at", "perturbation": "rwp", "change": {"c_min": 1.0}})
    (name,) = [n for n, r in suites["demo"]["recipes"].items() if r.get("change") == {"c_min": 1.0}]
    suites["own"] = {"extends": "demo", "recipes": {name: {"change": {"c_min": None}}}}
    assert check_params(settings).suites["own"].recipes[name].change.c_min is None
    suites["own"]["recipes"][name]["change"]["gamma"] = None
    with pytest.raises(UserError, match=rf"suites\.own\.recipes\.{name}\.change\.gamma: .* null"):
        check_params(settings)


@pytest.mark.parametrize("name", UNRESOLVED)
def test_what_a_run_shows_is_refused_while_planning(name: str, settings: dict[str, Any]) -> None:
    change, message = UNRESOLVED[name]
    with_recipe(settings, {**SHORT})
    change(settings)
    params = check_params(settings)
    with pytest.raises(UserError, match=f"^params.yaml: suites.demo.{message}"):
        Steps(params).suite("demo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("build: [demo\n", r"expected YAML, got .* at line \d+"),
        ("just words", r"expected a table of settings, got str"),
        ("a: 2020-01-01", r"expected numbers, texts, lists and tables"),
        ("\x00\x01", r"expected YAML"),
        ("a: 2022-13-45", r"expected YAML, got month must be in 1\.\.12"),
        ("a: 1\nb: {c: 2, c: 3}", "expected YAML, got the key 'c' twice at line 2"),
        ("a: &a [*a]", r"expected values that end, got one that holds itself by an alias at line"),
        ("a: &a {b: {c: *a}}", r"got one that holds itself by an alias at line 1; write it out"),
        ("[" * 20_000, r"expected (YAML|a table)"),
    ],
)
def test_file_that_is_no_settings_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_params(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [010]", "got 010 at line 1, which YAML 1.1 reads as 8; write 10, or 8 if that"),
        ("a: 08", "without leading zeros, got 08 at line 1, .* a text; write 8"),
        ("a: 0o17", "got 0o17 at line 1, which YAML 1.1 reads as a text and YAML 1.2 as 15; wri"),
        ("a: 0x1F", "got 0x1F at line 1, which YAML 1.1 reads as 31; write 31"),
        ("a: [yes]", "got yes at line 1, .* as true and YAML 1.2 as a text; write true, or"),
        ("a: Off", 'got Off at line 1, .* as false .*; write false, or "Off" in quotes'),
        ("a: 1:30", 'got 1:30 at line 1, .* as 90 .base 60.; write "1:30" in quotes, or 90'),
        ("a: 1_000", "got 1_000 at line 1, which YAML 1.1 reads as 1000; write 1000"),
        ("a: 2020-01-01", 'got 2020-01-01 at line 1, .* a date; write "2020-01-01" in quotes'),
        ("a: .inf", "expected a finite number, got .inf at line 1"),
        ("a: .NaN", "expected a finite number, got .NaN at line 1"),
        ("a: ~", "got ~ at line 1, which YAML reads as null; write null, or leave the key out"),
        ("a: None", "got None at line 1, .* a text; write null, or leave the key out"),
        ("a: {b, c: 1}", "expected the value of 'b' to be written, got nothing at line 1"),
        ("a: {default:0.1}", "got nothing at line 1, .*; write a space after the colon"),
        ("on: 1", 'expected a text as key, got on at line 1; put it in quotes: "on"'),
        ("10: 1", 'expected a text as key, got 10 at line 1; put it in quotes: "10"'),
        ("? [a, b]\n: 1", "expected a text as key, got a sequence at line 1"),
        ("a: 1\n'a': 2", "the key 'a' twice at line 2"),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}", "the key '<<' twice at line 2"),
        ("a:\n\tb: 1", "got character .* at line 2; indent with spaces instead of tabs"),
        ("a: [1\nb: 2", "expected YAML, got an error .did not find expected ',' or .* line 2;"),
        ("a: &x 1\nb: {<<: *x}", "expected YAML, got an error .expected a mapping .* at line 1"),
        ("a: *x", "expected YAML, got undefined alias at line 1; correct that line"),
        ("a: !!int '010'", "expected a value without a tag, got 010 at line 1, tagged as int"),
        ("a: !!set {b}", "expected a list or a table without a tag, got one tagged as set"),
        ("a: =", "got = at line 1"),
        ("a: 1\n---\nb: 2", "expected YAML, got another document at line 2"),
    ],
)
def test_yaml_that_can_be_read_in_two_ways(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_params(path)
    assert "\n" not in str(caught.value)


def test_yaml_that_is_read_as_meant(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "\ufeffa: [1, -2, 0, 0.5, .5, 1., 1.0e-1, +3, true, False, null, 1e-1, 2E5]\n"
        "b: ['010', \"yes\", 8/255, none, 2.0.1, 'on']\n"
        "base: &base {x: 1, y: 2}\n"
        "own: {<<: *base, y: 3}\n"
        "none:\n"
        "  - 1\n"
        "  -\n",
        encoding="utf-8",
    )
    assert read_yaml(path) == {
        "a": [1, -2, 0, 0.5, 0.5, 1.0, 0.1, 3, True, False, None, 0.1, 2e5],
        "b": ["010", "yes", "8/255", "none", "2.0.1", "on"],
        "base": {"x": 1, "y": 2},
        "own": {"x": 1, "y": 3},
        "none": [1, None],
    }


def test_a_radius_above_one_is_one_of_the_l2_norm(settings: dict[str, Any]) -> None:
    demo(settings)["threat_models"]["l2"]["epsilon"] = 3.0  # in use on ImageNet
    params = check_params(settings)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="l2", seed=0)
    attack = train_spec(params, key).attack
    assert attack is not None
    assert attack.threat.radius == 3.0


@pytest.mark.parametrize("name", ["2e1", "089"])
def test_a_data_set_may_have_the_name_of_a_number(settings: dict[str, Any], name: str) -> None:
    settings["datasets"][name] = settings["datasets"]["digits"]
    demo(settings)["table1"]["datasets"] = [name]
    assert check_params(settings).suites["demo"].table1.datasets == (name,)


def test_numbers_as_snakemakes_command_line_has_them() -> None:
    assert with_exponents({"a": [{"b": "5e-4"}], "c": "x"}) == {"a": [{"b": 5e-4}], "c": "x"}


def test_aliases_that_grow_without_bounds(tmp_path: Path) -> None:
    names = "abcdefghi"
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]" for below, name in pairwise(names)
    ]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="expected at most 1000000 values, got more by aliases"):
        load_params(path)


@pytest.mark.parametrize("recipe", ["at", None])
def test_steps_that_leave_the_ball(settings: dict[str, Any], recipe: str | None) -> None:
    demo(settings)["threat_models"]["linf"]["step_size"] = 0.13
    params = check_params(settings)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="linf", seed=0)
    message = r"demo\..*: expected a step_size of at most the radius 0\.12, got 0\.13, by which"
    with pytest.raises(UserError, match=message):
        train_spec(params, key) if recipe else evaluation_spec(params, key)


def test_a_single_step_may_be_longer_than_the_radius(settings: dict[str, Any]) -> None:
    demo(settings)["training"] |= {"attack_num_steps": 1, "attack_step_size": 0.15}
    params = check_params(settings)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="linf", seed=0)
    attack = train_spec(params, key).attack
    assert attack is not None
    assert attack.step == 0.15  # 1.25 radii, as Fast AT has it


def test_autoattack_lite_is_refused_before_anything_is_planned(settings: dict[str, Any]) -> None:
    demo(settings)["evaluation"]["attacks"]["autoattack"]["version"] = "lite"
    params = check_params(settings)  # a network may be looked at with it
    for target in (
        "results/demo/table2.csv",
        "results/demo/report.html",
        "results/demo/beyond.csv",
    ):
        with pytest.raises(
            UserError, match=r"autoattack\.version: expected standard for .*got lite"
        ):
            below([Steps(params).find(target)])


def test_a_warm_up_that_outlasts_the_training(settings: dict[str, Any]) -> None:
    demo(settings)["perturbations"]["rwp"]["warmup_epochs"] = {"default": 3, "trades": 16}
    params = check_params(settings)
    place = {"dataset": "digits", "threat": "linf", "seed": 0}
    train_spec(params, run_key(params, "demo", recipe="at-rwp", **place))
    with pytest.raises(UserError, match=r"rwp\.warmup_epochs: expected fewer than the 16 epochs"):
        train_spec(params, run_key(params, "demo", recipe="trades-rwp", **place))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a YAML file, found none; run from the"):
        load_params(tmp_path / "params.yaml")


def test_rwp_without_c_min_for_a_data_set(settings: dict[str, Any]) -> None:
    settings["suites"]["paper"]["perturbations"]["rwp"]["c_min"] = {"cifar10": 1.7, "svhn": 2.2}
    params = check_params(settings)
    key = run_key(params, "paper", recipe="at-rwp", dataset="cifar100", threat="linf", seed=0)
    message = r"suites\.paper\.perturbations\.rwp\.c_min: expected a value for cifar100/"
    with pytest.raises(UserError, match=message):
        train_spec(params, key)


def test_two_settings_that_contradict_each_other(settings: dict[str, Any]) -> None:
    settings["suites"]["demo"]["training"]["learning_rate"] = {"digits": 0.1, "at": 0.2}
    params = check_params(settings)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="linf", seed=0)
    with pytest.raises(UserError, match=r"expected one value, got digits and at which both fit"):
        train_spec(params, key)


def test_unknown_names_on_a_command_line(params: Any) -> None:
    place = {"recipe": "at", "dataset": "digits", "threat": "linf", "seed": 0}
    for wrong, message in (
        ({"recipe": "at-rpw"}, r"expected a recipe \(natural, at,.*got 'at-rpw'"),
        ({"dataset": "digit"}, r"expected a data set .*got 'digit'"),
        ({"threat": "l3"}, r"expected a threat model \(linf, l2\), got 'l3'"),
    ):
        with pytest.raises(UserError, match=message):
            run_key(params, "demo", **(place | wrong))
    with pytest.raises(
        UserError,
        match=r"expected a suite \(demo, demo-full, .*, paper\), got 'papr'",
    ):
        run_key(params, "papr", **place)


@pytest.mark.parametrize("attack", ["pgd-20", "autoattack"])
def test_a_draft_is_refused_before_anything_is_planned(
    settings: dict[str, Any], attack: str
) -> None:
    demo(settings)["evaluation"]["attacks"][attack]["draft"] = "tf32"
    params = check_params(settings)  # a network may be looked at with it
    for target in ("results/demo/table2.csv", "results/demo/report.html"):
        with pytest.raises(
            UserError, match=rf"{attack}\.draft: expected a search in fp32 for .*got tf32"
        ):
            below([Steps(params).find(target)])


@pytest.mark.parametrize(("attack", "word"), [("pgd-20", "fp32"), ("natural", "tf32")])
def test_a_draft_that_cannot_be_meant(settings: dict[str, Any], attack: str, word: str) -> None:
    demo(settings)["evaluation"]["attacks"][attack]["draft"] = word
    with pytest.raises(UserError, match=rf"attacks\.{attack}.*expected"):
        check_params(settings)


SETTINGS_OF_PERTURBATION = {
    "gamma": 0.5,
    "num_weight_steps": 3,
    "norm_scope": "layer",
    "mask": "above",
    "c_min": 0.5,
    "criterion": "adversarial_ce",
    "warmup_epochs": 2,
    "tensors": "all",
    "layers": [0, 1],
    "depth_profile": [1.0, 0.5],
    "length": "absolute",
    "direction": "random",
    "step_at": "original",
}


@pytest.mark.parametrize("name", SETTINGS_OF_PERTURBATION)
def test_a_setting_of_a_perturbation_stands_there_or_in_a_change(
    name: str, settings: dict[str, Any]
) -> None:
    value, suite = SETTINGS_OF_PERTURBATION[name], demo(settings)
    with_recipe(settings, {"objective": "trades", "perturbation": "rwp", "change": {name: value}})
    suite["perturbations"]["own"] = {**suite["perturbations"]["rwp"], name: value}
    with_recipe(settings, {"objective": "trades", "perturbation": "own"}, name="other")
    params = check_params(settings)
    place = {"dataset": "digits", "threat": "linf", "seed": 0}
    specs = [
        train_spec(params, run_key(params, "demo", recipe=recipe, **place))
        for recipe in ("mine", "other")
    ]
    assert specs[0].perturbation.replace(name="own") == specs[1].perturbation
    assert specs[0].objective == specs[1].objective


IMAGES: dict[str, tuple[Change, str]] = {
    "of the evaluation": (
        lambda s: demo(s)["evaluation"].update(num_examples=253),
        r"evaluation\.num_examples: expected at most the 252 test images of digits, got 253; lower",
    ),
    "of one attack": (
        lambda s: (
            demo(s)["evaluation"].update(num_examples=None),
            attacks(s)["autoattack"].update(num_examples=5000),
        ),
        r"attacks\.autoattack\.num_examples: expected at most the 252 test images .* got 5000",
    ),
    "fewer than the classes": (
        lambda s: attacks(s)["autoattack"].update(num_examples=9),
        r"autoattack\.num_examples: expected at least one test image of each of the 10 classes",
    ),
    "fewer than the classes, of a curve": (
        lambda s: demo(s).update(curve_examples=9),
        r"demo\.curve_examples: expected at least one test image of each of the 10 classes",
    ),
    "of a curve": (
        lambda s: demo(s).update(curve_examples=1000),
        r"demo\.curve_examples: expected at most the 252 test images of digits, got 1000",
    ),
    "of a curve of Table 1 alone": (
        lambda s: (
            s["datasets"].update(fewer={"source": "digits", "test_share": 0.1}),
            demo(s)["table1"].update(datasets=["digits", "fewer"]),
            demo(s).update(curve_examples=200),
        ),
        r"demo\.curve_examples: expected at most the 180 test images of fewer, got 200",
    ),
    "of a size that Square Attack cannot start on": (
        lambda s: (
            s["datasets"].update(mid={"source": "cifar10", "image_size": 24}),
            demo(s)["table2"].update(dataset="mid", threat_model="l2"),
        ),
        r"attacks\.autoattack: expected images that Square Attack's first squares fit .* 24x24",
    ),
    "of own images that Square Attack cannot start on": (
        lambda s: (
            s["suites"].pop("demo-full"),
            s["datasets"].update(
                own={"source": "image_folder", "path": "images/own", "image_size": 24}
            ),
            demo(s)["table2"].update(dataset="own", threat_model="l2", recipes=["at"]),
            demo(s).update(beyond=None, figures={}, reported=[]),
        ),
        r"attacks\.autoattack: expected images that Square Attack's first squares fit .* 24x24",
    ),
    "of own images, the first of which are of one class": (
        lambda s: (
            s["suites"].pop("demo-full"),
            s["datasets"].update(own={"source": "image_folder", "path": "images/own"}),
            demo(s)["table2"].update(dataset="own", recipes=["at"]),
            demo(s).update(beyond=None, figures={}, reported=[]),
            demo(s)["evaluation"].update(first_examples=100),
        ),
        r"first_examples: expected num_examples for own, whose images lie class by class, got 100",
    ),
    "of a landscape": (
        lambda s: s["suites"]["paper"]["figures"]["fig2"].update(num_examples=60_000),
        r"fig2\.num_examples: expected at most the 50000 images of cifar10 that a training has",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_more_images_than_there_are(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """As far as that is known beforehand: of official files and digits."""
    change, message = IMAGES[name]
    check_images(check_params(settings), tmp_path, "params.yaml")
    change(settings)
    with pytest.raises(UserError, match=message):
        check_images(check_params(settings), tmp_path, "params.yaml")


def test_lengths_are_those_of_the_norm(settings: dict[str, Any]) -> None:
    """A step of 1.5 is none under L-inf, and one under L2 at a radius of 3."""
    demo(settings)["threat_models"]["l2"].update(epsilon=3, step_size=1.5)
    demo(settings)["training"]["attack_epsilon"] = {"l2": 2, "default": "8/255"}
    params = check_params(settings)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="l2", seed=0)
    attack = train_spec(params, key).attack
    assert attack is not None
    assert (attack.step, attack.threat.radius) == (1.5, 2.0)
    demo(settings)["training"]["attack_epsilon"] = 2
    params = check_params(settings)
    with pytest.raises(
        UserError, match=r"training\.attack_epsilon: expected a radius in \(0, 1\] .* got 2; did"
    ):
        train_spec(params, key.replace(threat="linf"))


def test_names_of_a_run_are_those_of_the_settings(params: Params) -> None:
    place = {"recipe": "natural", "dataset": "digits"}
    with pytest.raises(UserError, match=r"expected a threat model .*, got 'bogus'"):
        run_key(params, "demo", threat="bogus", seed=0, **place)
    assert run_key(params, "demo", threat="linf", seed=0, **place).threat == "none"
    with pytest.raises(UserError, match=r"seed: expected at most 9223372036854775807, got"):
        run_key(params, "demo", threat="linf", seed=2**63, **place)


def test_the_published_trades_counts_its_clean_pass_twice(settings: dict[str, Any]) -> None:
    for name in ("trades", "rst"):
        demo(settings)["objectives"][name].pop("clean_updates", None)
    params = check_params(settings)
    found = {
        recipe: train_spec(
            params,
            run_key(params, "demo", recipe=recipe, dataset="digits", threat="linf", seed=0),
        ).objective.clean_updates
        for recipe in ("trades", "rst", "at")
    }
    assert found == {"trades": 2, "rst": 1, "at": 1}


def test_labels_are_found_whoever_else_cannot_be_trained(settings: dict[str, Any]) -> None:
    """A c_min for one data set alone, and RST on the other."""
    demo(settings)["perturbations"]["rwp"]["c_min"] = {"svhn": 2.2}
    path = "results/demo/pseudo_labels/digits/digits-holdout-seed0.pt"
    step = Steps(check_params(settings)).find(path)
    assert step.kind == "label"
    with pytest.raises(UserError, match="expected a source that suite demo uses, got digits"):
        Steps(check_params(settings)).find(path.replace("digits-holdout", "digits"))


@pytest.mark.parametrize(
    ("dataset", "source", "message"),
    [
        ("cifar10-jpeg-16", "cifar10-16-holdout", "got cifar10-16-holdout, whose dataset is cifar"),
        ("cifar10-jpeg-16", "cifar10-jpeg-16-holdout", None),
        ("cifar10", "tinyimages-500k", None),
        ("cifar10-jpeg", "tinyimages-500k", None),  # a folder holds what its owner says
        ("cifar10-16", "tinyimages-500k", r"for cifar10-16 \(cifar10 at 16 pixels\), got tinyima"),
        ("cifar100", "tinyimages-500k", "which is for cifar10 at 32 pixels"),
        ("svhn", "svhn-extra", None),
        ("cifar10", "svhn-extra", "which is for svhn at 32 pixels"),
        ("cifar10-jpeg", "ddpm-1m", "got ddpm-1m, whose dataset is cifar10; name a source for"),
    ],
)
def test_unlabeled_images_are_for_the_data_set_of_the_run(
    settings: dict[str, Any], dataset: str, source: str, message: str | None
) -> None:
    settings["suites"]["paper"]["objectives"]["rst"]["unlabeled"]["source"] = source
    params = check_params(settings)
    place = {"dataset": dataset, "threat": "linf", "seed": 0}
    key = run_key(params, "paper", recipe="rst", **place)  # type: ignore[arg-type]
    if message is None:
        mix = train_spec(params, key).unlabeled
        assert mix is not None
        assert mix.source == source
    else:
        with pytest.raises(UserError, match=message) as caught:
            train_spec(params, key)
        assert "\n" not in str(caught.value)


def test_every_column_of_the_tables_is_reserved() -> None:
    ours = (
        *(*tables.LABELS, *tables.BEYOND_LABELS, *tables.WORDS, *tables.FROM_TRAINING),
        *(*tables.COSTS, *tables.MEASURES, tables.WORST_CASE, tables.NUM_SEEDS),
    )
    assert set(ours) <= set(OTHER_COLUMNS)


def test_parts_of_own_images_are_of_those_that_were_fetched(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ant", "bee", "cat", "dog"):
        for split in ("train", "test"):
            path = tmp_path / "mine" / split / name / f"{split}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{split} {name}".encode())
    settings["datasets"]["mine"] = {"source": "image_folder", "path": "mine"}
    demo(settings)["table2"]["dataset"] = "mine"
    demo(settings)["evaluation"]["num_examples"] = 41
    params = check_params(settings)
    check_images(params, tmp_path, "params.yaml")  # nothing is known yet
    mark = Steps(params).fetch("mine").fingerprint
    write_passport(tmp_path / "data", "mine", test={"count": 40}, fingerprint=mark)
    with pytest.raises(UserError, match=r"at most the 40 test images of mine, got 41"):
        check_images(params, tmp_path, "params.yaml")
    (tmp_path / "mine/test/dog/3.png").write_bytes(b"another")  # they will be fetched again
    check_images(params, tmp_path, "params.yaml")
    settings["datasets"]["mine"]["image_size"] = 16  # and so they will now
    (tmp_path / "mine/test/dog/3.png").unlink()
    check_images(check_params(settings), tmp_path, "params.yaml")
    (tmp_path / "data/mine/passport.json").write_text("{")
    check_images(params, tmp_path, "params.yaml")
    for name in ("ant", "bee"):
        shutil.rmtree(tmp_path / "mine/train" / name)
    with pytest.raises(UserError, match="expected at least 4 classes, got 2"):
        check_images(params, tmp_path, "params.yaml")  # not that the passport is cut


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("default/at", "'default/at' with 'default', which no run is called; leave it out"),
        ("at/trades", "'at/trades', which names an objective twice; write a key for each"),
        ("linf/l2", "names a threat model twice"),
        ("at/at", "names an objective twice"),
        ("none/linf", "names a threat model twice"),
    ],
)
def test_a_key_that_no_run_can_have_is_refused(
    settings: dict[str, Any], key: str, message: str
) -> None:
    """Its value was never looked up, and the default trained in its place."""
    training = settings["suites"]["paper"]["training"]
    training["learning_rate"] = {"default": 0.1, key: 0.02}
    with pytest.raises(UserError, match=re.escape(message)):
        check_params(settings)
