"""All that a command of ours imports sooner or later, for a process that others are forked from."""

from importlib import import_module

for _name in (
    "alembic.command",
    "mlflow.store.tracking.sqlalchemy_store",
    "torch._dynamo",  # by the first step of an optimizer
    "rwp.commands.app",
    "rwp.evaluation.jobs",
    "rwp.pipeline.steps",
    "rwp.tracking",
    "rwp.training.jobs",
    "rwp.training.pseudo_labels",
):
    import_module(_name)
