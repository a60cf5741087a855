"""All stages by name."""

from __future__ import annotations

from selfspec.stages.adapter import adapter
from selfspec.stages.examples import examples
from selfspec.stages.harness import harness
from selfspec.stages.index import index
from selfspec.stages.round_examples import round_examples
from selfspec.stages.scores import scores

STAGES = {stage.name: stage for stage in (index, examples, round_examples, adapter, scores, harness)}
RESOURCE_KIND = {name: stage.resources for name, stage in STAGES.items()}  # whose request and memory estimate it uses
DISTRIBUTED = tuple(name for name, stage in STAGES.items() if stage.distributed)  # several processes may share one
