"""``cnlab-study simulate``: raters made of numbers fill a study's sheets. Every file of theirs says so.

Not the model of the analysis: a method's picture has ability + what the item does for it (heavy tails, items of
unequal weight) + noise; raters differ in taste and in steadiness; some click at random, some for a while.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.contract.files import lock_folder, remove, write_json
from user_study.config import Import, Simulate
from user_study.design.trials import Trial, display_order
from user_study.study_folder import SIMULATED, Study, clear_answers, part_of, read_study
from user_study.votes.answers import CHOICES, SIMULATED_RATER, answer_seal, seal

STARTED = "2000-01-01T00:00:00.000Z"
SLIP = 0.01  # chance that a careful rater misses an obvious answer


class Rater:
    """One simulated rater: taste, steadiness, and whether the mind wanders."""

    def __init__(self, config: Simulate, study: Study, items: dict[str, Any], number: int) -> None:
        self.config, self.study, self.items = config, study, items
        self.random = np.random.default_rng([config.seed, 1, number])
        self.taste = dict(zip(study.names, self.random.normal(0, config.rater_sd, len(study.names)), strict=True))
        self.noise = float(self.random.lognormal(0, 0.3))
        self.careless = bool(self.random.random() < config.careless)
        self.wandering = False

    def choose(self, trial: Trial) -> str:
        """The choice at one trial."""
        chance = self.random.random()
        self.wandering = chance < 0.5 if self.wandering else chance < self.config.bursts
        if self.careless or self.wandering:
            return self._at_random(trial)
        if trial.expected and self.random.random() > SLIP:
            return self._expected(trial)
        worth = np.array([self._worth(trial.item, side) for side in trial.shown])
        worth = worth + self.random.logistic(0, self.noise / 2, worth.size)
        if self.study.mode == "ranking":
            return ">".join(str(place) for place in np.argsort(-worth))
        if self.study.mode == "discrimination":
            second = trial.shown[0][0] == "b"
            gap = abs(self._worth(trial.item, "a") - self._worth(trial.item, "b"))
            right = self.random.random() < 0.5 + 0.5 * np.tanh(gap / 2 / self.noise)
            return "second" if second == right else "first"
        if abs(worth[0] - worth[1]) < self.config.ties:
            return "tie"
        return "left" if worth[0] > worth[1] else "right"

    def _worth(self, item: str, side: str) -> float:
        fixed = -6.0 if side.endswith("*") else 0.0
        letters = sorted(self.study.names)
        abilities = dict(zip(letters, [*self.config.abilities, *[0.0] * len(letters)], strict=False))
        return fixed + float(abilities[side[0]] + self.taste[side[0]] + self.items[item][side[0]])

    def _at_random(self, trial: Trial) -> str:
        if self.study.mode == "ranking":
            return ">".join(str(place) for place in self.random.permutation(len(trial.shown)))
        return str(self.random.choice(CHOICES[self.study.mode][:-1]))

    def _expected(self, trial: Trial) -> str:
        if self.study.mode != "ranking":
            return trial.expected
        others = [str(p) for p in self.random.permutation(len(trial.shown)) if str(p) != trial.expected]
        return ">".join([*others, trial.expected])


def simulate_study(config: Simulate) -> None:
    """Fill the sheets in turn, store the answers below ``simulated/`` of the study, and analyse them."""
    from user_study.votes.collect import import_answers

    study = read_study(config.study)
    random = np.random.default_rng([config.seed, 0])
    names = sorted({trial.item for trials in study.trials.values() for trial in trials.values()})
    weight = random.lognormal(0, 0.4, len(names))
    items = {
        name: dict(zip(study.names, w * config.item_sd / np.sqrt(2) * random.standard_t(5, len(study.names)) / 1.29,
                       strict=True))
        for name, w in zip(names, weight, strict=True)
    }  # fmt: skip
    folder = part_of(config.study, simulated=True)
    outbox = folder / "outbox"
    with lock_folder(config.study):
        clear_answers(folder)
        remove(outbox)
        for number in range(config.raters):
            document = fill(study, Rater(config, study, items, number), number)
            write_json(outbox / f"simulated-{number + 1:04d}.json", document)
    import_answers(Import(config.study, (outbox,), config.results))
    print(f"simulated answers and their report: {config.study / SIMULATED}")


def fill(study: Study, rater: Rater, number: int) -> dict[str, Any]:
    """The document that a sheet would export, marked as simulated."""
    sheet, name = sorted(study.trials)[number % len(study.trials)], f"{SIMULATED_RATER}{number + 1:04d}"
    trials, token = study.trials[sheet], study.token(sorted(study.trials)[number % len(study.trials)])
    answers = []
    for trial in display_order({t: entry.block for t, entry in trials.items()}, study.seeds[sheet], name):
        answer: dict[str, Any] = {
            "trial": trial,
            "choice": rater.choose(trials[trial]),
            "response_ms": int(rater.random.lognormal(7.6, 0.4)),
            "hidden_ms": 0,
            "views": 1,
            "window": [1280, 800],
        }
        answers.append({**answer, "seal": answer_seal(token, name, answer)})
    payload = {
        "study": study.id,
        "sheet": sheet,
        "token": token,
        "seed": study.seeds[sheet],
        "rater": name,
        "started": STARTED,
        "finished": STARTED,
        "answers": answers,
        "simulated": True,
    }
    return {"format": "picture-answers", "version": 2, "payload": payload, "seal": seal(payload)}
