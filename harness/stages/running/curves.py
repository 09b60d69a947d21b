"""Training curves: named loss terms over steps, kept on the device until they are written."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.stages.running.tensorboard import FOLDER, ScalarLog
from harness.storage.artifacts import Work
from harness.storage.durable import storage_errors, write_text


class Curve:
    """Every `every`-th step's loss terms, appended to `curve.jsonl`, one line a step.

    The file lies beside the checkpoints; each of them also holds what it was then. The first worker
    also writes the terms for TensorBoard.
    """

    def __init__(self, work: Work, every: int) -> None:
        self._work = work
        self.path = work.curve
        self.final = work.payload / "curve.jsonl"
        self.every = every
        self.log = ScalarLog(work.payload / FOLDER) if work.lease else None
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []
        self.largest: Tensor | None = None
        """The largest loss since the last step that was kept; a part of a training's state."""
        if not self.path.exists():
            self.path.touch()

    def rewind(self, steps_done: int) -> None:
        """Drop what was written after the checkpoint that a run continues from; a kill may have
        torn the last line."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] < steps_done]
        write_text(self.path, "".join(kept))
        if self.log:
            self.log.start(steps_done)

    def note(self, step: int, terms: Mapping[str, Tensor], loss: Tensor | None = None) -> None:
        """Keep the terms of this step where it is a multiple of `every`.

        With the `loss` of every step, the largest since the last one kept is a term too: a jump
        between two points of the curve shows.
        """
        if loss is not None:
            now = loss.detach()
            self.largest = now if self.largest is None else torch.maximum(self.largest, now)
            terms = {**terms, "largest_loss": self.largest}
        if step % self.every == 0:
            self._waiting.append((step, {name: t.detach() for name, t in terms.items()}))
            self.largest = None

    def flush(self) -> None:
        """Write what is waiting; synchronises with the device."""
        if self._work.lease is not None:
            self._work.require_lease()
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            for step, terms in self._waiting:
                names = list(terms)
                values = torch.stack([terms[n].float().reshape(()) for n in names]).tolist()
                numbers = dict(zip(names, values, strict=True))
                file.write(json.dumps({"step": step, **numbers}) + "\n")
                if self.log:
                    self.log.write(step, numbers)
        self._waiting.clear()
        if self.log:
            self.log.flush()

    def end_log(self) -> None:
        """End the log for TensorBoard as it is."""
        if self.log:
            self.log.close()

    def close(self) -> None:
        """Write what is waiting and end the log for TensorBoard."""
        self.flush()
        self.end_log()

    def publish(self) -> None:
        """Put the curve into the artifact."""
        self.close()
        write_text(self.final, self.path.read_text(encoding="utf-8"))
