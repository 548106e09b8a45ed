"""GOKU's cardiovascular experiment: ``python -m tests.benchmarks.goku [--goku FOLDER --weights FOLDER]``.

O. Linial, N. Ravid, D. Eytan, U. Shalit, "Generative ODE Modeling with Known Unknowns", CHIL 2021. 1000 series of 400
steps, noise 0.05; nine tenths are trained on, the others are seen for 200 steps and forecast for the next 200. Of each
series an external flow (0 or -2) and a change of resistance (0 or 0.5) are unknown beside its initial state.

GOKU's own code (github.com/orilinial/GOKU) is run beside, as it is: its ``create_data.py`` writes the data to
``data/cvs`` of its folder, which are then read here, and ``--train`` runs its ``goku_train.py`` with its own settings,
and saves the best weights so far every ten epochs, with the CPU time. ``--weights`` judges these by the same measures.
It imports gym, skimage and tqdm for its other experiments: empty modules of these names do, and torch needs
``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1``.

The settings of skode were chosen on data of another seed. The final data are those of GOKU's seed, 12.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import textwrap
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skode import KnownDynamics, LatentODERegressor
from skode.solvers import solve_ivp
from tests.benchmarks.report import ROOT, table, write

STATES = ["pa", "pv", "s", "sv"]
FASTEST, SLOWEST, MOST_RESISTANCE, LEAST_RESISTANCE = 3.0, 2.0 / 3.0, 2.134, 0.5335
SEEN, STEPS, SKIPPED, NOISE = 200, 400, 50, 0.05
#: As GOKU's network has them: bounds of the unknowns, and of states at the start.
PARAMS = {"flow": (-1.0, -2.0, 0.0), "resistance": (0.25, 0.0, 0.5)}
INITIAL = {"pa": (0.5, 0.0, 1.0), "pv": (0.5, 0.0, 1.0), "s": (0.5, 0.0, 1.0), "sv": (0.95, 0.85, 1.05)}
SETTINGS = {"max_iter": 5, "batch_size": 150, "random_state": 0}


def rate_of(s: Tensor) -> Tensor:
    """Heart rate of the state of the baroreflex."""
    return s * (FASTEST - SLOWEST) + SLOWEST


def circulation(t: Tensor, y: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Arterial and venous pressure (in 100 and 10 mmHg), baroreflex, stroke volume (in 100 ml)."""
    pa, pv, s, sv = 100.0 * y[..., 0], 10.0 * y[..., 1], y[..., 2], 100.0 * y[..., 3]
    resistance = s * (MOST_RESISTANCE - LEAST_RESISTANCE) + LEAST_RESISTANCE - p["resistance"]
    filling = sv * rate_of(s) - (pa - pv) / resistance
    reflex = (torch.sigmoid(-0.1838 * (pa - 70.0)) - s) / 20.0
    volume = 1e-4 * p["flow"] + torch.zeros_like(s)
    return torch.stack([filling / 400.0, (p["flow"] - filling) / 1110.0, reflex, volume], dim=-1)


def measured(t: Tensor, y: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Both pressures and the heart rate."""
    return torch.stack([y[..., 0], y[..., 1], rate_of(y[..., 2])], dim=-1)


@dataclass(frozen=True)
class Data:
    """Noisy series to train on, noisy series to test on and what is true of these."""

    training: np.ndarray
    test: np.ndarray
    clean: np.ndarray
    flow: np.ndarray
    resistance: np.ndarray

    @classmethod
    def made(cls, n_series: int, seed: int) -> Data:
        """Data by the recipe."""
        rng = np.random.RandomState(seed)
        low, high = np.array([0.75, 0.3, 0.15, 0.9]), np.array([0.85, 0.7, 0.25, 1.0])
        start = torch.from_numpy(rng.uniform(low, high, (n_series, 4)))
        flow, resistance = (np.where(rng.uniform(size=n_series) > 0.5, 0.0, x) for x in (-2.0, 0.5))
        p = {"flow": torch.from_numpy(flow), "resistance": torch.from_numpy(resistance)}
        times = torch.arange(SKIPPED, SKIPPED + STEPS, dtype=torch.float64)
        end = (0.0, float(times[-1]))
        states = solve_ivp(lambda t, y: circulation(t, y, p), end, start, t_eval=times, rtol=1e-8, atol=1e-8).y
        clean = measured(times, states.transpose(0, 1) if len(states) == STEPS else states, p).numpy()
        noisy = clean + NOISE * rng.standard_normal(clean.shape)
        n = round(0.9 * n_series)
        return cls(noisy[:n], noisy[n:], clean[n:], flow[n:], resistance[n:])

    @classmethod
    def read(cls, folder: Path) -> Data:
        """Data that GOKU's code made."""

        def load(name: str) -> dict:
            return torch.load(folder / f"{name}.pkl", weights_only=False)

        noisy, truth = load("processed_data"), load("test_params_data")
        return cls(noisy["train"], noisy["test"], load("gt_test_data"), truth["i_ext"], truth["r_tpr_mod"])


def frame(first: int, values: np.ndarray, start: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Series as a long frame."""
    n, n_steps, _ = values.shape
    steps = np.arange(start, start + n_steps, dtype=np.float64)
    X = pd.DataFrame({"series": np.repeat(np.arange(first, first + n), n_steps), "time": np.tile(steps, n)})
    return X, values.reshape(n * n_steps, -1)


@dataclass(frozen=True)
class Judged:
    """A line of the table.

    Attributes
    ----------
    name : str
        Of the method.
    told : float
        Share of series of which both unknowns are told right.
    error : float
        Mean absolute error of forecasts.
    by_output : tuple of float
        The same of each output.
    seconds : float
        CPU time.
    """

    name: str
    told: float
    error: float
    by_output: tuple[float, ...]
    seconds: float

    @classmethod
    def of(cls, name: str, data: Data, found: tuple[np.ndarray, np.ndarray, np.ndarray], seconds: float) -> Judged:
        """The measures of flows, resistances and forecasts."""
        flow, resistance, forecast = found
        told = ((flow < -1.0) == (data.flow < -1.0)) & ((resistance > 0.25) == (data.resistance > 0.25))
        error = np.abs(forecast - data.clean[:, SEEN:])
        return cls(name, float(told.mean()), float(error.mean()), tuple(error.mean((0, 1)).tolist()), seconds)

    def __str__(self) -> str:
        by_output = " ".join(f"{x:.4f}" for x in self.by_output)
        return f"{self.name:34s} {self.told:10.1%} {self.error:10.5f}   {by_output} {self.seconds:10.0f}"


def ours(data: Data, observe: object, settings: dict) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """Unknowns and forecasts of the test series by a latent ODE with known dynamics, and what it took, in CPU time."""
    n = len(data.training)
    dynamics = KnownDynamics(circulation, PARAMS, states=STATES, initial=INITIAL, observe=observe)
    start = process_time()
    model = LatentODERegressor("series", "time", dynamics=dynamics, **settings)
    model.fit(*frame(0, data.training[:, :SEEN]))
    print(f"fit: {process_time() - start:.0f} s; noise {model.noise_std_.round(4)}", flush=True)
    conditioned = model.condition(*frame(n, data.test[:, :SEEN]))
    forecast = conditioned.predict(frame(n, data.clean[:, SEEN:], SEEN)[0]).reshape(len(data.test), -1, 3)
    values = conditioned.latent_states().loc[n:]
    return (values["flow"].to_numpy(), values["resistance"].to_numpy(), forecast), process_time() - start


@torch.no_grad()
def theirs(data: Data, folder: Path, saved: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by GOKU's own code with weights that were saved."""
    sys.path.insert(0, str(folder))
    models = __import__("models")
    network = models.create_goku_cvs(ode_method="rk4")
    network.load_state_dict(saved["model"])
    seen = torch.from_numpy(data.test[:, :SEEN]).float()
    predicted, _, params, *_ = network.eval()(seen, t=torch.arange(float(STEPS)), variational=False)
    return params["i_ext"].numpy(), params["r_tpr_mod"].numpy(), predicted[:, SEEN:].numpy()


def train(folder: Path, out: Path, every: int = 10) -> None:
    """GOKU's own training, as it is, with the best weights so far saved every few epochs."""
    os.chdir(folder)  # where it reads its data
    sys.path.insert(0, ".")
    goku_train = __import__("goku_train")
    validate, start = goku_train.validate_goku, process_time()
    epoch, best, weights = 0, float("inf"), {}

    def watched(args: object, model: torch.nn.Module, *loader: object) -> Tensor:
        nonlocal epoch, best, weights
        loss, epoch = validate(args, model, *loader), epoch + 1
        if float(loss) < best:
            best, weights = float(loss), copy.deepcopy(model.state_dict())
        if epoch % every == 0:
            saved = {"epoch": epoch, "cpu": process_time() - start, "model": weights}
            torch.save(saved, out / f"weights_{epoch:03d}.pt")
        return loss

    goku_train.validate_goku = watched
    # What goku_train.py sets where it is run by ``--model cvs --cpu``.
    options = dict.fromkeys(("num_epochs", "mini_batch_size", "seq_len", "delta_t", "data_path"))
    options |= dict.fromkeys(("norm", "kl_annealing_epochs", "kl_start_af", "kl_end_af"))
    options |= {"seed": 1, "learning_rate": 0.001, "weight_decay": 0.0, "method": "rk4", "model": "cvs", "cpu": True}
    args = goku_train.load_goku_train_config(argparse.Namespace(**options))
    args.checkpoints_dir = str(out) + "/"
    goku_train.train(args)


BODY = """
1000 series of 400 steps of a circulation whose equations are known, with noise of 0.05 on both pressures and the
heart rate; 900 are for training, and of each of the other 100 the first 200 steps are seen. Unknown of each series
are its initial state, an external flow (0 or -2) and a change of resistance (0 or 0.5). "Both told" is the share of
the 100 series whose flow and resistance are nearer to the true one of the two values; the error is the mean absolute
one of forecasts of steps 200 to 400, against the noiseless series, by output: arterial pressure (100 mmHg), venous
pressure (10 mmHg), heart rate (1/s). CPU times are those of training, and for skode of the posteriors and forecasts
as well.

{table}

Targets: both unknowns told right in at least 99 % of the series: {told}. An error of at most half of that of GOKU's
own code beside it: {half}. In a tenth of its time: {tenth}.

GOKU's own code is that of <https://github.com/orilinial/GOKU> (commit 538c3c4), run as it is with its own settings
for this experiment (400 epochs of batches of 128, RK4 of steps of 1), on data that its `create_data.py` wrote (seed
12); each row has the weights of the best validation loss until then. It was ended here at {epochs} of the 400 epochs,
{share}. skode was run once on
these data; its settings were chosen on data of another seed. Both shared the machine with other work.

## Differences

- GOKU's network infers by its encoder alone, at the cost of one pass; skode finds the mode of each series' posterior,
  and its shape there, which takes a tenth of a second or so of each series.
- GOKU learns how the heart rate depends on the state. Here `observe` says it; `--learnt` has skode learn it too, which
  was not run here.
- GOKU trains on windows of 200 steps with random starts of the series' 400; skode on their first 200.
- Bounds of the unknowns are GOKU's: flows between -2 and 0, resistances between 0 and 0.5. The true values lie on
  these bounds, which neither method can reach.
"""


def written(out: Path, lines: list[Judged], command: str) -> None:
    """Write the page."""
    own, theirs = lines[0], lines[1:]
    rows = [
        [
            line.name,
            f"{line.told:.1%}",
            f"{line.error:.5f}",
            *(f"{x:.4f}" for x in line.by_output),
            f"{line.seconds:.0f}",
        ]
        for line in lines
    ]
    last = theirs[-1]
    least = min(line.error for line in theirs)
    epochs = int(last.name.split()[1])
    whole = last.seconds * 400 / epochs
    ended = epochs < 400
    share = f"after {last.seconds / 60:.0f} minutes of CPU time; all of them would take {whole:.0f} s at that pace"
    open_ended = ", as far as it was run; of all its epochs that is open" if ended else ""
    half = "reached" if own.error <= 0.5 * least else "not reached"
    tenth = "reached" if own.seconds <= 0.1 * last.seconds else "not reached"
    body = BODY.strip().format(
        table=table(["", "both told", "error", "arterial", "venous", "rate", "CPU s"], rows),
        told=f"{own.told:.1%}, {'reached' if own.told >= 0.99 else 'not reached'}",
        half=f"{own.error / least:.2f} of its least, {half}{open_ended}",
        tenth=f"{own.seconds / last.seconds:.2f} of the time that it was given here, {tenth}"
        + (f"; {own.seconds / whole:.2f} of that of all its epochs" if ended else ""),
        epochs=epochs,
        share=share if ended else "all",
    )
    write(out / "goku.md", "A circulation with known equations", wrapped(body), command)


def wrapped(text: str, width: int = 120) -> str:
    """A page whose paragraphs and items fit in lines of that width; tables stay."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith(("|", "#")):
            blocks.append(block)
            continue
        items = ("\n" + block).split("\n- ")[1:]
        filled = [fill("- " + " ".join(item.split()), width, subsequent_indent="  ") for item in items]
        blocks.append("\n".join(filled) if items else fill(" ".join(block.split()), width))
    return "\n\n".join(blocks)


def fill(text: str, width: int, **options: str) -> str:
    """A paragraph in lines, parted at blanks."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False, **options)


def main() -> None:
    """Print the table, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goku", type=Path, help="a clone of orilinial/GOKU with data/cvs")
    parser.add_argument("--train", type=Path, help="run GOKU's own training, and save weights in this folder")
    parser.add_argument("--weights", type=Path, help="the folder with GOKU's weights")
    parser.add_argument("--own", type=Path, help="a file that keeps the line of skode, which is read where it is there")
    parser.add_argument("--n-series", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--learnt", action="store_true", help="learn the read-out of the heart rate, as GOKU does")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="where the page is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.train is not None:
        train(options.goku, options.train.resolve())
        return
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = Data.made(options.n_series, options.seed) if options.goku is None else Data.read(options.goku / "data/cvs")
    print(f"{'':34s} {'both told':>10s} {'error':>10s}   Pa     Pv     rate   {'CPU s':>10s}")
    observe, settings = (["pa", "pv", None], {**SETTINGS, "max_iter": 40}) if options.learnt else (measured, SETTINGS)
    if options.own is not None and options.own.exists():
        lines = [Judged(**json.loads(options.own.read_text()))]
    else:
        lines = [Judged.of("LatentODERegressor", data, *ours(data, observe, settings))]
    if options.own is not None:
        options.own.write_text(json.dumps(asdict(lines[0])))
    print(lines[0], flush=True)
    # GOKU may have trained on meanwhile.
    for path in [] if options.weights is None else chosen(sorted(options.weights.glob("*.pt"))):
        saved = torch.load(path, weights_only=False)
        found = theirs(data, options.goku, saved)
        lines.append(Judged.of(f"GOKU, {saved['epoch']} epochs", data, found, saved["cpu"]))
        print(lines[-1], flush=True)
    if len(lines) > 1:
        written(options.out, lines, "python -m tests.benchmarks.goku " + " ".join(sys.argv[1:]))


def chosen(paths: list[Path], most: int = 5) -> list[Path]:
    """Some of the files, equally far apart, with the last one."""
    places = np.linspace(0, len(paths), most + 1)[1:].round().astype(int) - 1
    return [paths[place] for place in sorted({*places.tolist()})] if paths else []


if __name__ == "__main__":
    main()
