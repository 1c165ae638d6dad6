"""Where everything lies: one object owns every file name under `SWEEPER_HOME`.

SWEEPER_HOME/                 default ./sweeps; may be moved as a whole
├── optuna.db                 every study's trials (Optuna's schema), unless store.json says where else they are
├── store.json                the database of the studies' trials, where that is a server's; without its password
├── mlflow.db                 every study's runs (MLflow's schema)
├── opening.lock              held while a database is made
├── artifacts/                what the runs point to: configs, adapters
├── models/                   bases converted once, quantised once; writing.lock: held while a quantised one is written
├── memory/                   what is known of the memory that models take here: formulas, ratios, the runtime's own
├── pace/                     what is known of the time that work takes here, by model and device
└── studies/NAME/
    ├── config.yaml           the composed configuration
    ├── changes.yaml          what later launches changed, an entry each
    ├── model.json            which base it is: a commit of the Hub, or what files a folder had
    ├── splits.json           which row is in which split, where the study cut them
    ├── data.json             what the data doctor found in the rows, without their text
    ├── code/                 a copy of the study's own task and metric, which workers import
    ├── tracking.json         the study's id, and the servers where it has runs
    ├── spool/worker-0/       what is still to be written to the runs, while their store does not take it
    ├── mirror.json           how far its mirror is, and under which id this machine writes there
    ├── mirror.lock, .mirror/   which process copies it there, and what it is copying to the mirror
    ├── launcher.lock, launcher.json   which process holds the lock, or held it last
    ├── worker.lock           which every worker shares, to keep out what needs the study for itself
    ├── workers/              for each: 0.lock, 0.json, which process it is, or was last; 0.outcome.json, how it ended,
    │                         written once, always; token, by which a node tells that it sees this very folder;
    │                         jobs.json and submitit/, of workers that are jobs of SLURM
    ├── logs/worker-0.log     what a worker said, and what it said before: worker-0.log.1 and so on
    ├── events.jsonl          what happened, a line each, for progress display
    ├── on_finish.log         what the command of `on_finish` wrote
    ├── learning_curve.json, learning_curve.png   what parts of the training rows give, and its picture
    ├── test_comparisons.json   which pairs `sweeper compare` has compared on the test split
    ├── cost.json, cost.csv, cost.png    where the dollars went: by label, trial and session; every line; its picture
    ├── report.html, report.md, pictures/   what `sweeper report` wrote last
    ├── deleting              only while the study is being deleted, or where that was interrupted
    ├── base/                 what the untuned base predicts, row by row: predictions.jsonl, predictions-test.jsonl;
    │                         retention.jsonl: how it does the items of the retention suite; wrong_rows-test.csv and
    │                         -validation.csv: the wrong ones with their text, where `tracking.log_text` asks for that
    ├── side/confirmation-0701/   a training that is no trial: checkpoint.safetensors while it runs; then result.json
    │                         and predictions.jsonl
    └── trials/0007/          config.yaml; checkpoint.safetensors while it runs; adapter/ if it is kept;
                              predictions.jsonl of its best evaluation, predictions-test.jsonl of a winner;
                              wrong_rows-*.csv, as of the base; memory.json: the readings around an end for memory;
                              inference.json: what serving its adapter costs, if that was measured
"""

from sweeper.paths.files import NAME_PATTERN, is_valid_name, opened_atomically, write_atomically
from sweeper.paths.home import HOME_VARIABLE, LAUNCHED_S, Home
from sweeper.paths.study import TEST, VALIDATION, StudyPaths

__all__ = [
    "HOME_VARIABLE",
    "LAUNCHED_S",
    "NAME_PATTERN",
    "TEST",
    "VALIDATION",
    "Home",
    "StudyPaths",
    "is_valid_name",
    "opened_atomically",
    "write_atomically",
]
