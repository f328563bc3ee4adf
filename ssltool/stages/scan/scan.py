"""The scan stage: runs the steps in order, each on the files of the previous one in the run folder, and scores them."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import torch
from torch import Tensor

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import Pretrained, default_run_name
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import ScanConfig, as_dict
from ssltool.config.scan import STEPS
from ssltool.data.found import announce, record_of
from ssltool.data.shard import Shard
from ssltool.data.workers import killed_workers
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.files.schema import ANYTHING, conform, mapping
from ssltool.files.stored import weights_hash
from ssltool.models.family import SMALL_IMAGE
from ssltool.reprs.clusters_file import SCORES, Clusters
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.runs.folder import RunFolder
from ssltool.runs.resume import changed_images, check_compatible, check_images
from ssltool.runs.run_paths import run_path, with_number
from ssltool.settings import Record, Settings
from ssltool.stages.scan.cluster_scores import score
from ssltool.stages.scan.cluster_training import (
    Clustering,
    SelfLabelling,
    best_path,
    predict,
    training_path,
)
from ssltool.stages.scan.inputs import Inputs, unit_rows
from ssltool.stages.scan.kmeans import kmeans, nearest_centroid
from ssltool.stages.scan.mining import NETWORK, NeighbourTable, check_neighbours, mine, mined_differences
from ssltool.training import distributed
from ssltool.training.classifier_setup import build_classifier, classifier_setup
from ssltool.training.device import pick_device
from ssltool.training.setup import TrainingSetup
from ssltool.training.signals import StopRequest

OUTPUTS = {"mine": "neighbours.pt", "cluster": "clusters.pt", "selflabel": "selflabelled.pt"}
"""The file that each step writes for the next one."""

VIEW_SETTINGS = ("crop_min", "flip_p", "jitter_p", "jitter", "gray_p", "blur_p", "solarize_p")
"""Settings of the strong views, taken from the checkpoint."""

SMALL_CROP = {"cluster": 0.5, "selflabel": 1.0}
"""``crop_min`` of each step for small images, which the authors' code does not crop. Clustering needs the crops;
self-labelling loses accuracy with them (docs/scan.md)."""

STEP_SETTINGS = {"cluster": ("heads", "entropy_weight", "erase_p"), "selflabel": ("threshold", "erase_p")}
"""Settings of each step that pretraining does not have."""

BATCH_FLAGS = {"cluster": "--batch-size", "selflabel": "--selflabel-batch-size"}
"""The flag of each step that trains, which sets the images in a batch."""

HEAD_ONLY = {"optimizer": "sgd", "weight_decay": 0.0}
"""The optimiser of clustering with ``--head-only``, as in the authors' configurations for ImageNet."""


@killed_workers("--resume auto continues after the last saved epoch")
def run(config: ScanConfig) -> Record:
    """Runs the requested steps and returns the result document.

    For each step it has the cluster sizes and, if labels are known, the agreement of clusters and classes, on the val
    images if there are any, else on the train images.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: for unusable files or data, or self-labelling without confident images.
        Interrupted: after a signal; the state is saved.
    """
    config.check()
    device = pick_device(config, local_rank=distributed.local_rank())
    with distributed.process_group(device, "auto") as shard:
        return _Scan(config, device, shard).run()


class _Scan:
    """One invocation: its inputs, its folder, and the results so far."""

    def __init__(self, config: ScanConfig, device: torch.device, shard: Shard) -> None:
        name = "scan" if config.pretrained is None else default_run_name("scan", config)
        self.config = with_number(config, name)
        self.steps = STEPS if config.step == "all" else (config.step,)
        self.later = STEPS[STEPS.index(self.steps[0]) :]
        self.folder = RunFolder(run_path(self.config, name), "scan", is_new=self.config is not config)
        self.outputs = {step: self.folder.path / OUTPUTS[step] for step in STEPS}
        self.inputs = Inputs(config, device, shard, self.outputs["cluster"])
        self.shard = shard
        self.results: Record = {}

    def run(self) -> Record:
        """Runs the requested steps in order."""
        with self.folder.locked():
            with distributed.raise_on_all_ranks():
                self._check()
            self._claim()
            announce(*self.inputs.opened)
            return self._run()

    def _run(self) -> Record:
        if "mine" in self.steps:
            self._mine()
        if self.config.kmeans:
            self._kmeans()
        with StopRequest() as stop:
            if "cluster" in self.steps:
                self._cluster(stop)
            if "selflabel" in self.steps:
                self._selflabel(stop)
        for name, result in self.results.items():
            if result.get("empty"):
                distributed.rank_zero_info(
                    f"warning: {name}: {result['empty']} of {result['clusters']} clusters are empty"
                )
        found = [record_of(images) for images in self.inputs.opened]
        return {"steps": self.results, "found": found, "run": str(self.folder.path)}

    def _check(self) -> None:
        """Checks everything that can be checked before a file is written, and opens the images."""
        c, first = self.config, self.steps[0]
        self.folder.refuse_if_taken(overwrite=False, resumed_from=self.outputs["mine"])  # another stage's results
        existing = [path for path in self._files() if path.exists()]
        if existing and not (c.overwrite or c.resume):
            raise SSLToolError(
                f"{existing[0]} exists; continue the run (--resume auto), replace this step and the later ones "
                "(--overwrite), or choose another folder (--out, --exp-name, --exp-id)"
            )
        if first != "mine":
            previous = STEPS[STEPS.index(first) - 1]
            if not self.outputs[previous].is_file():
                raise SSLToolError(
                    f"--step {first} reads {self.outputs[previous]}, which does not exist; run --step {previous} first"
                )
        else:
            check_neighbours(c.neighbours, len(self.inputs.train_reprs if c.reprs else self.inputs.train))
        if "cluster" in self.steps or (c.kmeans and not c.reprs):
            self.inputs.cluster_count(self.inputs.train.labels)
        if c.kmeans and c.reprs:
            self.inputs.cluster_count(self.inputs.train_reprs.targets.numpy())
        self._check_batches()
        if {*BATCH_FLAGS} & {*self.steps} or (c.kmeans and not c.reprs):
            _ = self.inputs.evaluation
        self._check_files()

    def _check_batches(self) -> None:
        """Checks that the number of ranks divides the batches."""
        for step, flag in BATCH_FLAGS.items():
            if step in self.steps and self._batch_size(step) % self.shard.world:
                raise SSLToolError(
                    f"{flag} {self._batch_size(step)} is not divisible by the number of ranks ({self.shard.world}); "
                    "change it"
                )

    def _batch_size(self, step: str) -> int:
        """The images in a batch of a step; those of clustering have a neighbour each."""
        c, train = self.config, self.inputs.train
        labelling = c.selflabel_batch_size or (250 if train.name == "bundled" else 1000)
        return min(c.batch_size if step == "cluster" else labelling, len(train))

    def _check_files(self) -> None:
        """Checks that the files of earlier steps fit, and that a resumed step has the settings that it began with."""
        c, first = self.config, self.steps[0]
        if c.resume:
            self._check_complete()
        if first == "mine" and c.resume and self.outputs["mine"].exists():
            self._check_mined()
        for phase, previous in (("cluster", "mine"), ("selflabel", "cluster")):
            if phase not in self.steps or not self.outputs[previous].exists() or not (first == phase or c.resume):
                continue
            _, saved, _ = self.clustering if phase == "cluster" else self.selflabelling
            for path in (training_path(self.folder, phase), self.outputs[phase]):
                if c.resume and path.exists():
                    checkpoint = Checkpoint.load(path)
                    more = (*VIEW_SETTINGS, *STEP_SETTINGS[phase], "clusters", "phase", "unlabelled", "head_only")
                    check_images(checkpoint.config, path, self.inputs.train, self.inputs.val)
                    check_compatible(checkpoint, saved, path, more=more)

    def _check_complete(self) -> None:
        """Checks that no file is missing from which a later one was made; a new one could have other settings."""
        for previous, step in itertools.pairwise(self.later):
            made = [path for path in (self.outputs[step], training_path(self.folder, step)) if path.exists()]
            if made and not self.outputs[previous].exists():
                raise SSLToolError(
                    f"cannot resume {made[0]}: {self.outputs[previous]}, from which it was made, is missing; restore "
                    f"it, or replace the step and the later ones with --step {previous} --overwrite"
                )

    def _check_mined(self) -> None:
        """Checks that the neighbours are those that this run would mine."""
        path, names = self.outputs["mine"], {"k": "--neighbours"} | NETWORK
        if self.config.reprs:
            old, now = Neighbours.load(path).meta, self.inputs.train_reprs.meta
            names |= {"dataset": "the dataset", "split": "the split", "fingerprint": "the hash of the images"}
        else:
            old, now = self.mined.meta, self._embedding_network()
        differing = mined_differences(names, old, now | {"k": self.config.neighbours})
        if differing:
            raise SSLToolError(f"cannot resume {path}: {'; '.join(differing)}; give its values, or mine again")

    def _other_network(self) -> list[str]:
        """How the network that embedded the neighbours differs from the one that this run embeds images with."""
        return mined_differences(NETWORK, self.mined.meta, self._embedding_network())

    def _embedding_network(self) -> Record:
        """What neighbours keep of the network that this run embeds images with."""
        return self.inputs.network.origin | {"layer": "backbone"}

    def _files(self) -> list[Path]:
        """The files of the first requested step and of all later ones."""
        more = (f"{kind}_{step}.pt" for step in self.later for kind in ("training", "assignments"))
        best = [best_path(self.folder)] if "cluster" in self.later else []
        return [*(self.outputs[step] for step in self.later), *(self.folder.path / name for name in more), *best]

    def _claim(self) -> None:
        """Sets the files to replace aside, and writes the settings and the records to keep."""
        training = {step: training_path(self.folder, step) for step in self.later}
        with distributed.raise_on_all_ranks():
            if self.config.resume:
                training = {step: path for step, path in training.items() if path.exists()}
            records = [record for record in self.folder.read_metrics() if record.get("phase") not in training]
            for path in training.values() if self.config.resume else ():
                records += Checkpoint.load(path).metrics["epochs"]
            is_new = not self.folder.is_started() or (self.steps[0] == "mine" and not self.config.resume)
        settings = as_dict(self.config) | {"stage": "scan"}
        resumed_from = None if is_new else self.outputs["mine"]
        replaced = () if self.config.resume else [path.name for path in self._files()]
        self.folder.claim(settings, records, resumed_from=resumed_from, replaced=replaced, until_done=True)
        val = self.inputs.val if {*BATCH_FLAGS} & {*self.steps} else None
        if "train" in self.inputs.__dict__:
            self.folder.save_images(self.inputs.train, val)

    def _mine(self) -> None:
        path, inputs = self.outputs["mine"], self.inputs
        if not distributed.from_rank_zero(path.exists):
            self.folder.write(mine(inputs.train_reprs, self.config.neighbours, inputs.device, self.shard), path)
        meta = distributed.from_rank_zero(lambda: Neighbours.load(path).meta)
        self.results["mine"] = {"neighbours": meta.get("k"), "accuracy": meta.get("accuracy")}

    def _kmeans(self) -> None:
        train, evaluation = self.inputs.train_reprs, self.inputs.evaluation_reprs
        count = self.inputs.cluster_count(train.targets.numpy())
        centroids = kmeans(unit_rows(train), count, self.config.seed, self.shard)
        assignments = torch.from_numpy(nearest_centroid(unit_rows(evaluation), centroids))
        confidence = torch.full((len(evaluation),), torch.nan)
        clusters = Clusters(assignments, confidence, evaluation.targets, evaluation.index)
        self._save_assignments("kmeans", clusters, count, str(evaluation.meta.get("split", "train")))

    @functools.cached_property
    def mined(self) -> Neighbours:
        """The file of the mining step, whose images are those of this run."""
        path = self.outputs["mine"]
        neighbours = Neighbours.load(path)
        changed = changed_images(neighbours.meta, path.parent, self.inputs.train)
        if changed is not None:
            raise SSLToolError(f"{path} has neighbours of other images: {changed}; mine again")
        return neighbours

    @functools.cached_property
    def clustering(self) -> tuple[TrainingSetup, SavedRun, NeighbourTable]:
        """The setup of the clustering step, its saved run, and the neighbours."""
        c, inputs, train, path = self.config, self.inputs, self.inputs.train, self.outputs["mine"]
        table = NeighbourTable.of(self.mined, train, path)
        epochs, lr = (15, 1e-3) if train.name == "bundled" else (100 if c.head_only else 50, 1e-4)
        rate, more = c.lr or (5.0 if c.head_only else lr), HEAD_ONLY if c.head_only else {}
        setup = self._setup("cluster", inputs.network, c.epochs or epochs, rate, more)
        count = inputs.cluster_count(train.labels)
        saved = self._saved_run(setup, "cluster", count, inputs.network).updated(head_only=c.head_only or None)
        return setup, saved.updated(n_classes=count * c.heads, neighbours_hash=file_hash(path)), table

    def _cluster(self, stop: StopRequest) -> None:
        if distributed.from_rank_zero(self.outputs["cluster"].exists):
            self._load_results("cluster")
            return
        with distributed.raise_on_all_ranks():
            (setup, saved, table), inputs = self.clustering, self.inputs
        if "mine" not in self.steps and (differing := self._other_network()):
            distributed.rank_zero_info(
                f"note: {self.outputs['mine']} has the neighbours of another network than the one that is clustered: "
                + "; ".join(differing)
            )
        if table.isolated:
            distributed.rank_zero_info(
                f"warning: {table.isolated} of {len(inputs.train)} images have no neighbours; each is its own neighbour"
            )
        method = build_classifier(saved, inputs.network, inputs.device)
        with inputs.loader(inputs.train) as loader, inputs.loader(inputs.evaluation) as validation:
            validation_table = inputs.evaluation_table or table
            loop = Clustering(method, setup, saved, self.folder, loader, table, validation, validation_table)
            loop.run(stop, self.folder.log)
            best = loop.keep_best()
        kept = {"head": best["head"], "kept_epoch": best["epoch"]}
        self._finish(loop, saved.updated(n_classes=saved.settings["clusters"], **kept))
        self.folder.remove(loop.best)

    @functools.cached_property
    def selflabelling(self) -> tuple[TrainingSetup, SavedRun, Pretrained]:
        """The setup of the self-labelling step, its saved run, and the network that it starts from."""
        c, network = self.config, self.inputs.clustered()
        epochs = 5 if self.inputs.train.name == "bundled" else released_epochs(network.image_size)
        epochs = c.selflabel_epochs or self._begun_with("selflabel", epochs)
        setup = self._setup("selflabel", network, epochs, c.selflabel_lr)
        count = network.run.settings["n_classes"]
        return setup, self._saved_run(setup, "selflabel", count, network).updated(n_classes=count), network

    def _selflabel(self, stop: StopRequest) -> None:
        if distributed.from_rank_zero(self.outputs["selflabel"].exists):
            self._load_results("selflabel")
            return
        with distributed.raise_on_all_ranks():
            setup, saved, network = self.selflabelling
        method = build_classifier(saved, network, self.inputs.device)
        method.projector.load_state_dict(network.method.projector.state_dict())
        with self.inputs.loader(self.inputs.train) as loader:
            loop = SelfLabelling(method, setup, saved, self.folder, loader)
            loop.run(stop, self.folder.log)
        self._finish(loop, saved)

    def _begun_with(self, phase: str, epochs: int) -> int:
        """The epochs with which a resumed step began, whose default was another one in earlier versions; else
        ``epochs``."""
        begun = (training_path(self.folder, phase), self.outputs[phase])
        found = next((path for path in begun if self.config.resume and path.exists()), None)
        return epochs if found is None else int(Checkpoint.load(found).config["epochs"])

    def _setup(
        self, phase: str, network: Pretrained, epochs: int, lr: float, more: Settings | None = None
    ) -> TrainingSetup:
        c, train = self.config, self.inputs.train
        settings: Settings = {name: network.run.settings[name] for name in VIEW_SETTINGS}
        if c.crop_min or network.image_size <= SMALL_IMAGE:
            settings["crop_min"] = c.crop_min or SMALL_CROP[phase]
        size = self._batch_size(phase)
        settings |= {"epochs": epochs, "batch_size": size, "seed": c.seed}
        # Pretraining scales its learning rate by batch size / 256, which this cancels.
        settings |= {"optimizer": "adam", "weight_decay": 1e-4, "lr": lr * 256 / size, "fix_all_lr": True}
        settings |= (more or {}) | ({} if c.weight_decay is None else {"weight_decay": c.weight_decay})
        return classifier_setup(network, self.inputs.data_config, train, **settings, precision=c.precision)

    def _saved_run(self, setup: TrainingSetup, phase: str, count: int, network: Pretrained) -> SavedRun:
        settings = {name: getattr(self.config, name) for name in STEP_SETTINGS[phase]}
        start = weights_hash(network.method.state_dict())
        facts = {"phase": phase, "clusters": count, "network": network.origin, "start_hash": start}
        facts |= {"preprocessing": network.run.settings.get("preprocessing")}
        val = self.inputs.val
        return setup.saved_run.updated(**settings, **facts, val_fingerprint=None if val is None else val.fingerprint)

    def _finish(self, loop: Clustering | SelfLabelling, saved: SavedRun) -> None:
        """Evaluates the network, writes the step's files, and removes the training checkpoint."""
        phase, images = str(saved.settings["phase"]), self.inputs.evaluation
        with self.inputs.loader(images) as loader:
            confidence, assignments = predict(loop.state.method, loader).softmax(dim=1).max(dim=1)
        targets, index = torch.from_numpy(images.labels), torch.from_numpy(images.index)
        self._save_assignments(
            phase, Clusters(assignments, confidence, targets, index), saved.settings["clusters"], images.split
        )
        self.folder.write(loop.state.checkpoint(saved), self.outputs[phase])
        self.folder.remove(loop.path)

    def _save_assignments(self, name: str, clusters: Clusters, count: int, split: str) -> None:
        targets = clusters.targets
        result = {"clusters": count, "classes": len(targets[targets >= 0].unique()), "scored_on": split}
        result |= score(clusters.assignments.numpy(), targets.numpy(), count)
        result |= {"images": len(targets), "confident": _fraction_above(clusters.confidence, self.config.threshold)}
        clusters.meta = {"made_by": name, "seed": self.config.seed, **result}
        self.folder.write(clusters, self.folder.path / f"assignments_{name}.pt")
        self.results[name] = result

    def _load_results(self, name: str) -> None:
        """Loads the results of a step that was finished before."""
        path = self.folder.path / f"assignments_{name}.pt"
        with distributed.raise_on_all_ranks():
            meta = Clusters.load(path).meta
            conform({"meta": meta}, mapping({"meta": mapping(SCORES, other=ANYTHING)}), path)
        self.results[name] = {key: value for key, value in meta.items() if key not in ("made_by", "seed")}


def _fraction_above(confidence: Tensor, threshold: float) -> float | None:
    return None if bool(confidence.isnan().any()) else float((confidence > threshold).double().mean())


def released_epochs(image_size: int) -> int:
    """The epochs of self-labelling in the authors' configurations of CIFAR-10 (32 pixels), STL-10 (96), ImageNet."""
    if image_size <= SMALL_IMAGE:
        return 200
    return 100 if image_size < 224 else 25
