"""The whole chain on the embedded sample, within minutes: teacher, distilled datasets, networks trained on them.

    python scripts/demo.py                          # into demo/; the same command continues an interrupted demo
    python scripts/demo.py --output_dir elsewhere

It runs the same scripts that you would, with `--preset demo`, and ends with a table and the paths of the pictures.
"""

import argparse
from pathlib import Path

from decoct.arguments import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    parser.add_argument("--overwrite", action="store_true", help="start again where settings have changed since")
    options = parser.parse_args()
    from decoct.demo import demo_plan, demo_steps, demo_summary, run_steps

    print(f"{demo_plan(options.output_dir)}\n", flush=True)
    try:
        run_steps(demo_steps(options.output_dir, options.overwrite), options.output_dir)
    except KeyboardInterrupt:
        raise SystemExit("\nInterrupted. The same command continues where it was.") from None
    print(f"\n{demo_summary(options.output_dir)}", flush=True)


if __name__ == "__main__":
    run(main)
