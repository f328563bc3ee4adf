"""The scan stage: the steps one after the other, through the files of a run folder, and what is to be said of each."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import Pretrained, default_run_name
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import ScanConfig, as_dict
from ssltool.config.scan import STEPS
from ssltool.errors import SSLToolError
from ssltool.files import Record, Settings, file_hash, weights_hash
from ssltool.models.family import SMALL_IMAGE
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.runs.folder import RunFolder, run_path
from ssltool.runs.resume import check_compatible
from ssltool.stages.scan.cluster_scores import score
from ssltool.stages.scan.cluster_training import Clustering, SelfLabelling, predict
from ssltool.stages.scan.clusters_file import Clusters
from ssltool.stages.scan.inputs import Inputs, unit
from ssltool.stages.scan.kmeans import kmeans, nearest
from ssltool.stages.scan.mining import Table, mine
from ssltool.training.classifier_setup import build_classifier, classifier_setup
from ssltool.training.distributed import rank_zero_info
from ssltool.training.setup import TrainingSetup
from ssltool.training.signals import StopRequest

WRITTEN = {"mine": "neighbours.pt", "cluster": "clusters.pt", "selflabel": "selflabelled.pt"}
"""The file that each step writes for the next one."""

VIEWS = ("crop_min", "flip_p", "jitter_p", "jitter", "gray_p", "blur_p", "solarize_p")
"""How the strong views are made, which comes from the checkpoint."""

SMALL_CROP = 0.5
"""The smallest crop of small images, of which the authors' code cuts nothing off at all."""

OWN = {"cluster": ("heads", "entropy_weight", "erase_p"), "selflabel": ("threshold", "erase_p")}
"""Settings of each step's training besides those of pretraining."""


def run(config: ScanConfig) -> Record:
    """The stage: takes the steps asked for, and says of each how many images are in each cluster and, where classes
    are known, how well the clusters agree with them, on the val images, where there are any.

    Raises:
        SSLToolError: for unusable files or data, settings that do nothing, or self-labelling without confident images.
        Interrupted: after a signal, with the state saved.
    """
    config.check()
    return _Run(config).take()


class _Run:
    """One invocation: its inputs, its folder, and what was found so far."""

    def __init__(self, config: ScanConfig) -> None:
        self.config = config
        self.steps = STEPS if config.step == "all" else (config.step,)
        self.later = STEPS[STEPS.index(self.steps[0]) :]
        self.folder = RunFolder(
            run_path(config, "scan" if config.pretrained is None else default_run_name("scan", config)), "scan"
        )
        self.outputs = {step: self.folder.path / WRITTEN[step] for step in STEPS}
        self.inputs = Inputs(config, self.outputs["cluster"])
        self.found: Record = {}

    def take(self) -> Record:
        """All steps asked for, in order."""
        self._check()
        self._claim()
        if "mine" in self.steps:
            self._mine()
        if self.config.kmeans:
            self._kmeans()
        with StopRequest() as stop:
            if "cluster" in self.steps:
                self._cluster(stop)
            if "selflabel" in self.steps:
                self._selflabel(stop)
        for name, found in self.found.items():
            if found.get("empty"):
                rank_zero_info(f"warning: {name}: {found['empty']} of {found['clusters']} clusters are empty")
        return {"steps": self.found, "run": str(self.folder.path)}

    def _check(self) -> None:
        """Whatever can be refused before anything is written."""
        c, first = self.config, self.steps[0]
        self.folder.refuse_if_taken(overwrite=False, resumed_from=self.outputs["mine"])  # another stage's results
        existing = [path for path in self._files() if path.exists()]
        if existing and not (c.overwrite or c.resume):
            raise SSLToolError(
                f"{existing[0]} exists; resume the run (--resume auto), replace it and what follows from it "
                "(--overwrite), or choose another folder (--out, --exp-name, --exp-id)"
            )
        if first != "mine":
            before = self.outputs[STEPS[STEPS.index(first) - 1]]
            if not before.is_file():
                raise SSLToolError(f"--step {first} reads {before}, which is missing; run the step before it first")
        elif c.neighbours >= (others := len(self.inputs.rows if c.reprs else self.inputs.train)):
            raise SSLToolError(f"--neighbours {c.neighbours} of {others} images; ask for fewer than there are others")
        if c.kmeans or "cluster" in self.steps:
            self.inputs.count(self.inputs.rows.targets.numpy() if c.reprs else self.inputs.train.labels)
        self._check_fits()

    def _check_fits(self) -> None:
        """Refuses files of earlier steps that do not fit, and to resume a step with other settings."""
        c, first = self.config, self.steps[0]
        if first == "mine" and c.resume and self.outputs["mine"].exists():
            k = Neighbours.load(self.outputs["mine"]).meta.get("k")
            if k != c.neighbours:
                raise SSLToolError(
                    f"cannot resume {self.outputs['mine']}: --neighbours was {k}, is now {c.neighbours}; give its value"
                )
        for phase, before in (("cluster", "mine"), ("selflabel", "cluster")):
            if phase not in self.steps or not self.outputs[before].exists() or not (first == phase or c.resume):
                continue
            _, saved, _ = self.clustering if phase == "cluster" else self.selflabelling
            for path in (self._training(phase), self.outputs[phase]):
                if c.resume and path.exists():
                    checkpoint = Checkpoint.load(path)
                    check_compatible(checkpoint, saved, path, more=(*VIEWS, *OWN[phase], "clusters", "phase"))

    def _files(self) -> list[Path]:
        """The files of the first step asked for and of those that follow from it."""
        also = (f"{kind}_{step}.pt" for step in self.later for kind in ("training", "assignments"))
        return [*(self.outputs[step] for step in self.later), *(self.folder.path / name for name in also)]

    def _claim(self) -> None:
        """Removes what is to be replaced, and makes the folder this run's."""
        again = {step: self._training(step) for step in self.later}
        if self.config.resume:
            again = {step: path for step, path in again.items() if path.exists()}
        else:
            for path in self._files():
                path.unlink(missing_ok=True)
        records = [record for record in self.folder.read_metrics() if record["phase"] not in again]
        for path in again.values():
            records += Checkpoint.load(path).metrics["epochs"] if path.exists() else []
        settings = as_dict(self.config) | {"stage": "scan"}
        self.folder.claim(settings, records, resumed_from=self.outputs["mine"])

    def _mine(self) -> None:
        path = self.outputs["mine"]
        if not path.exists():
            mine(self.inputs.rows, self.config.neighbours, self.inputs.device).save(path)
        meta = Neighbours.load(path).meta
        self.found["mine"] = {"neighbours": meta.get("k"), "accuracy": meta.get("accuracy")}

    def _kmeans(self) -> None:
        rows, scored = self.inputs.rows, self.inputs.scored_rows
        count = self.inputs.count(rows.targets.numpy())
        assignments = torch.from_numpy(nearest(unit(scored), kmeans(unit(rows), count, self.config.seed)))
        clusters = Clusters(assignments, torch.full((len(scored),), torch.nan), scored.targets, scored.index)
        self._keep("kmeans", clusters, count, str(scored.meta.get("split", "train")))

    @functools.cached_property
    def clustering(self) -> tuple[TrainingSetup, SavedRun, Table]:
        """What the second step does: its run, as it is saved, and the neighbours."""
        c, inputs, train, path = self.config, self.inputs, self.inputs.train, self.outputs["mine"]
        table = Table.of(Neighbours.load(path), train, path)
        epochs, lr = (15, 1e-3) if train.name == "bundled" else (50, 1e-4)
        setup = self._job(inputs.network, c.epochs or epochs, c.batch_size, c.lr or lr)
        count = inputs.count(train.labels)
        saved = self._saved(setup, "cluster", count, inputs.network)
        return setup, saved.updated(n_classes=count * c.heads, neighbours_hash=file_hash(path)), table

    def _cluster(self, stop: StopRequest) -> None:
        if self.outputs["cluster"].exists():
            self._again("cluster")
            return
        (setup, saved, table), inputs = self.clustering, self.inputs
        if table.lonely:
            rank_zero_info(
                f"warning: {table.lonely} of {len(inputs.train)} images have no neighbours and are their own"
            )
        method = build_classifier(saved, inputs.network, inputs.device)
        with inputs.loader(inputs.train) as loader:
            fit = Clustering(method, setup, saved, self._training("cluster"), loader, table)
            fit.run(stop, self.folder.log)
            saved = saved.updated(n_classes=saved.settings["clusters"], head=fit.keep_best_head())
        self._finish(fit, saved)

    @functools.cached_property
    def selflabelling(self) -> tuple[TrainingSetup, SavedRun, Pretrained]:
        """What the third step does: its run, as it is saved, and the network that it starts from."""
        c, network = self.config, self.inputs.clustered()
        epochs, size = (5, 250) if self.inputs.train.name == "bundled" else (100, 1000)
        setup = self._job(network, c.selflabel_epochs or epochs, c.selflabel_batch_size or size, c.selflabel_lr)
        count = network.run.settings["n_classes"]
        return setup, self._saved(setup, "selflabel", count, network).updated(n_classes=count), network

    def _selflabel(self, stop: StopRequest) -> None:
        if self.outputs["selflabel"].exists():
            self._again("selflabel")
            return
        setup, saved, network = self.selflabelling
        method = build_classifier(saved, network, self.inputs.device)
        method.projector.load_state_dict(network.method.projector.state_dict())
        with self.inputs.loader(self.inputs.train) as loader:
            fit = SelfLabelling(method, setup, saved, self._training("selflabel"), loader)
            fit.run(stop, self.folder.log)
        self._finish(fit, saved)

    def _job(self, network: Pretrained, epochs: int, batch_size: int, lr: float) -> TrainingSetup:
        c, train = self.config, self.inputs.train
        own: Settings = {name: network.run.settings[name] for name in VIEWS}
        if c.crop_min or network.image_size <= SMALL_IMAGE:
            own["crop_min"] = c.crop_min or SMALL_CROP
        size = min(batch_size, len(train))
        own |= {"epochs": epochs, "batch_size": size, "weight_decay": c.weight_decay, "seed": c.seed}
        own |= {"optimizer": "adam", "lr": lr * 256 / size, "fix_all_lr": True}  # a run's rate is for a batch of 256
        return classifier_setup(network, self.inputs.data, train, **own, precision=c.precision)

    def _saved(self, setup: TrainingSetup, phase: str, count: int, network: Pretrained) -> SavedRun:
        own = {name: getattr(self.config, name) for name in OWN[phase]}
        start = weights_hash(network.method.state_dict())
        facts = {"phase": phase, "clusters": count, "network": network.origin, "start_hash": start}
        return setup.saved_run.updated(**own, **facts)

    def _training(self, phase: str) -> Path:
        return self.folder.path / f"training_{phase}.pt"

    def _finish(self, fit: Clustering | SelfLabelling, saved: SavedRun) -> None:
        """Scores the network, writes the step's files, and removes the training's."""
        phase, images = str(saved.settings["phase"]), self.inputs.scored
        with self.inputs.loader(images) as loader:
            confidence, assignments = predict(fit.state.method, loader).softmax(dim=1).max(dim=1)
        targets, index = torch.from_numpy(images.labels), torch.from_numpy(images.index)
        self._keep(phase, Clusters(assignments, confidence, targets, index), saved.settings["clusters"], images.split)
        fit.state.checkpoint(saved).save(self.outputs[phase])
        fit.path.unlink(missing_ok=True)

    def _keep(self, name: str, clusters: Clusters, count: int, split: str) -> None:
        targets = clusters.targets
        found = {"clusters": count, "classes": len(targets[targets >= 0].unique()), "scored_on": split}
        found |= score(clusters.assignments.numpy(), targets.numpy(), count)
        found |= {"images": len(targets), "confident": _share_above(clusters.confidence, self.config.threshold)}
        clusters.meta = {"made_by": name, "seed": self.config.seed, **found}
        clusters.save(self.folder.path / f"assignments_{name}.pt")
        self.found[name] = found

    def _again(self, name: str) -> None:
        """What a step that is done said."""
        meta = Clusters.load(self.folder.path / f"assignments_{name}.pt").meta
        self.found[name] = {key: value for key, value in meta.items() if key not in ("made_by", "seed")}


def _share_above(confidence: Tensor, threshold: float) -> float | None:
    return None if bool(confidence.isnan().any()) else float((confidence > threshold).double().mean())
