"""The settings of the small project that the reporting tests write by hand."""

from __future__ import annotations

import copy
from typing import Any

from rwp.pipeline.settings import Params
from rwp.reporting.lines import lines_of
from rwp.reporting.paper_settings import PaperSettings, attack_settings, training_settings

SUITE: dict[str, Any] = {
    "description": "nine defenses on a few digits",
    "seeds": [0],
    "selection": "held_out",
    "held_out_fraction": 0.1,
    "test_curve": True,
    "monitor_num_steps": 20,
    "threat_models": {
        "linf": {"norm": "linf", "epsilon": "8/255", "step_size": "2/255"},
        "l2": {"norm": "l2", "epsilon": "128/255", "step_size": "15/255"},
    },
    "network": "small",
    "training": {
        "epochs": 8,
        "batch_size": 128,
        "learning_rate": 0.1,
        "schedule": "piecewise_by_step",
        "decay_epochs": [4, 6],
        "decay_factor": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0005,
        "normalize": True,
        "crop_padding": 1,
        "padding_mode": "zero",
        "flip": False,
        "rotation_degrees": 0.0,
        "precision": "fp32",
        "attack_num_steps": 10,
        "attack_bn_mode": "train",
    },
    "objectives": {
        "natural": {"loss": "natural"},
        "at": {"loss": "at"},
        "trades": {"loss": "trades", "beta": 6.0},
        "rst": {
            "loss": "trades",
            "beta": 6.0,
            "unlabeled": {
                "source": {"default": "rest", "cifar10": "others"},
                "fraction": 0.5,
                "weight": 1.0,
                "epoch_size": 100,
                "teacher_recipe": "natural",
                "teacher_network": "small",
            },
        },
    },
    "perturbations": {
        "awp": {
            "gamma": 0.01,
            "num_weight_steps": 1,
            "norm_scope": "layer",
            "mask": "all",
            "warmup_epochs": 0,
        },
        "rwp": {
            "gamma": 0.01,
            "num_weight_steps": 10,
            "norm_scope": "model",
            "mask": "below",
            "c_min": 1.7,
            "warmup_epochs": 0,
        },
    },
    "recipes": {
        "natural": {"objective": "natural"},
        **{
            f"{objective}{suffix}": {"objective": objective, "perturbation": perturbation}
            for objective in ("at", "trades", "rst")
            for suffix, perturbation in (("", None), ("-awp", "awp"), ("-rwp", "rwp"))
        },
    },
    "evaluation": {
        "attacks": {
            "natural": {"kind": "natural"},
            "fgsm": {"kind": "fgsm"},
            "pgd-20": {"kind": "pgd", "num_steps": 20},
            "pgd-100": {"kind": "pgd", "num_steps": 100},
            "cw-100": {"kind": "cw", "num_steps": 100, "kappa": 0.0},
            "autoattack": {"kind": "autoattack", "version": "standard"},
        },
        "batch_size": 64,
        "seed": 0,
    },
    "table1": {
        "datasets": ["digits"],
        "threat_models": ["linf", "l2"],
        "recipes": ["at", "at-awp", "at-rwp"],
        "network": "small",
    },
    "table2": {
        "dataset": "digits",
        "threat_model": "linf",
        "recipes": [
            f"{objective}{suffix}"
            for objective in ("at", "trades", "rst")
            for suffix in ("", "-awp", "-rwp")
        ],
        "network": "small",
        "reference_recipe": "natural",
    },
    "sweeps": {"c-min": {"recipe": "at-rwp", "vary": {"c_min": [1.5, 1.7]}}},
    "figures": {
        "fig1b": {"kind": "curves", "recipes": ["at"], "splits": ["test", "train"]},
        "fig3a": {"kind": "sweep", "sweep": "c-min", "label": "c_min", "references": ["at"]},
        "fig3c": {
            "kind": "curves",
            "recipes": ["at", "at-awp", "at-rwp"],
            "splits": ["test", "held-out"],
        },
    },
}

PARAMS: dict[str, Any] = {
    "build": ["demo"],
    "datasets": {
        "digits": {"source": "digits", "test_share": 0.25, "unlabeled_share": 0.2},
        "cifar10": {"source": "cifar10"},
        "svhn": {"source": "svhn"},
    },
    "unlabeled": {
        "rest": {"kind": "holdout", "dataset": "digits"},
        "others": {"kind": "image_folder", "path": "images/others", "dataset": "cifar10"},
    },
    "networks": {"small": {"family": "preact_resnet", "blocks": [1, 1], "width": 8}},
    "suites": {"demo": SUITE},
}


def paper_content() -> dict[str, Any]:
    """The paper's suite as far as the comparison looks: its data sets, selection and length."""
    content = copy.deepcopy(PARAMS)
    suite = copy.deepcopy(SUITE)
    suite |= {"selection": "test", "held_out_fraction": 0.0}
    suite["figures"]["fig3c"] |= {"splits": ["test"]}  # nothing is held out
    suite["table1"] |= {"datasets": ["svhn", "cifar10"]}
    suite["table2"] |= {"dataset": "cifar10"}
    content["suites"]["paper"] = suite
    return content


def paper_settings_of(params: Params) -> PaperSettings:
    """What the suite `paper` of these settings trains and attacks, as it would be published."""
    tables = {name: list(lines_of(params, "paper", name)) for name in ("table1", "table2")}
    return PaperSettings(
        **{
            name: {tuple(line.labels.values()): training_settings(line.training) for line in lines}
            for name, lines in tables.items()
        },
        attacks={
            name: attack_settings(spec.attacks[0])
            for line in tables["table2"]
            for name, spec in line.attacked.items()
        },
    )


def shown_content() -> dict[str, Any]:
    """The demo with every kind of figure in its report, and the table beyond the paper."""
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["recipes"]["at-20"] = {"objective": "at", "attack_num_steps": 20}
    suite["sweeps"]["removal"] = {"recipe": "at", "vary": {"remove_below": [0.5, 1.0]}}
    suite["figures"] |= {
        "fig2": {
            "kind": "landscape",
            "recipe": "at",
            "epochs": [4, 6, 8],
            "edges": [0.0, 0.5, 1.0, 1.5],
            "num_directions": 2,
            "num_points": 11,
            "radius": 1.0,
        },
        "fig4b": {"kind": "removal", "sweep": "removal", "threat_model": "l2"},
    }
    suite["beyond"] = {
        "attacks": ["natural", "autoattack"],
        "groups": [
            {"title": "Rivals", "recipes": ["at", "at-20"]},
            {"title": "Thresholds", "sweeps": ["c-min"]},
        ],
    }
    suite["reported"] = ["fig1b", "fig2", "fig3a", "fig4b", "beyond"]
    return content
