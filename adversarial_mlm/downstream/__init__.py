"""Evaluation of encoders on TAPE's four downstream tasks, or on a task of the user's own.

[`load_task`] reads TAPE's files as they are published, [`load_own_task`] a table of the user's, and both return
[`TaskData`]: datasets with the columns `id`, `sequence` and `label`, the classes, and what is known about the data.

Inside, a module imports only from those above it: `unpickling` (entries of LMDB folders, without running what they
hold), `reading` (files to records), `labels` (one value of a record to a sequence, a label, a mask), `definitions`
(which tasks there are), `records` (one split: records to columns), `tasks` (the splits of a task together), `encoding`
(proteins to batches), `scoring` (the figure that counts), `modeling` (encoder and head), `finetune_settings`
(options), `task_trainer` (training and prediction), `finetune_results` (what a run leaves), `finetune` (runs, seeds,
grids).
"""
