# %% [markdown]
# # From a Slurm array to one table
#
# A table of settings, a run for each row, and all results in one table. On a cluster the runs are tasks of an array:
# `sbatch --array=1-4 pipelines/slurm/array.sh runs.csv runs ...`. Here a loop of bash stands in for it, so that the
# example needs no Slurm; a row is `--config runs.csv:N` in both.

# %%
set -e
cat >runs.csv <<'END'
method,lr,negatives (option)
simclr,0.1,true
simclr,0.4,true
simclr,0.1,false
simclr,0.4,false
END
for SLURM_ARRAY_TASK_ID in 1 2 3 4; do
  ssltool pretrain --config runs.csv:$SLURM_ARRAY_TASK_ID -a resnet18_w4 --stem small-stride2 --image-size 16 \
    --set dim=64 --set hidden=64 --epochs 2 --steps-per-epoch 10 -b 64 --monitor-size 512 \
    --out runs/$SLURM_ARRAY_TASK_ID --resume auto
done

# %% [markdown]
# Each task has a folder. `table` prints the main columns of all, with the settings in which the runs differ, and
# writes all columns to `--out`.

# %%
ssltool table runs/*/ --out table.csv
ssltool plot auc runs/*/ --x accuracy --group-by method -o array-to-table.png

# %% [markdown]
# ## What to see
#
# A point is a run: its accuracy against the AUC of the backbone, where 1 is a complete collapse. The two at the
# upper left lack the negatives: at either learning rate they have a higher AUC and a lower accuracy than the run
# with them. The table has the same numbers by row, with the columns `lr` and `negatives (option)`, in which the runs
# differ, and the verdict of each.
