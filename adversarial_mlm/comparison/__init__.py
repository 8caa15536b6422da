"""Compare ways of pre-training: many runs, paired by seed and batch, under equal budgets, on the same tasks.

Each module imports only from those above it:

- `recipe`: the YAML file;
- `arms`: an arm's pre-training recipe, how it masks, whether two arms are matched;
- `held_out`: selection and confirmation part;
- `flops`, `interleaved_timing`, `step_costs`: cost of an update, counted and measured;
- `plan`: the runs; `folder`: files and locks;
- `refit`: cross-entropy with refitted output biases; `tasks`: downstream tasks;
- `runs`: one run; `confirmation`: the evaluation at the end;
- `differences`: paired differences; `study`: all results as plain data;
- `meter`: the efficiency of an arm's updates at one checkpoint, without training;
- `report_cells`, `report_tables`, `report_plot`: the report;
- `compare`: the whole comparison in order.
"""
