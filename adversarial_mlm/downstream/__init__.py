"""Evaluate encoders on TAPE's four downstream tasks, or on your own table.

[`load_task`] reads TAPE's files as published, [`load_own_task`] your own table. Both return [`TaskData`]: datasets
with the columns `id`, `sequence` and `label`, the classes, and facts about the data.

Each module imports only from those above it:

- `lmdb_entries`: entries of LMDB folders, read without executing them; `reading`: files to records;
- `labels`: one value of a record; `definitions`: the tasks; `left_out`: counts of records that are left out;
- `records`: one split; `tasks`: all splits of a task;
- `scoring`: metrics of predictions; `metrics`: the same for the library `evaluate`;
- `alignment`, `linear_heads`, `probes`, `baselines`, `probe_callback`: frozen probes and baselines;
- `modeling`, `finetune_settings`, `task_trainer`, `finetune_results`, `finetune`: fine-tuning;
- `results`: records, tables and cards;
- `arguments`, `argument_checks`, `command_line`, `zero_shot`, `run`: the command line.
"""
