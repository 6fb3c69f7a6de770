"""The site: `make docs` builds it into build/docs."""

import decoct

project = "decoct"
copyright = "the authors of decoct"
release = version = decoct.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as GitHub makes them
html_theme = "furo"
html_title = f"decoct {release}"

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

# Pages that are elsewhere in the repository, and the pages here that include them.
ELSEWHERE = {
    "../benchmarks/README.md": "benchmarks.md",
    "../pipelines/igds/README.md": "pipeline.md",
    "../CONTRIBUTING.md": "contributing.md",
}


def linked_here(app, docname, source):
    """Links to pages elsewhere in the repository, which are right where the files are read, lead to the site's own."""
    for there, here in ELSEWHERE.items():
        source[0] = source[0].replace(f"]({there}", f"]({here}")


def as_markdown(app, what, name, obj, options, lines):
    """Docstrings are Markdown: `code` is code, | and * mark nothing up, a module's indented lines are as written."""
    written, lines[:] = lines[:], []
    for line in written:
        if what == "module" and line.startswith("    "):
            if lines[-1] == "":
                lines += ["::", ""]
            lines.append(line)
            continue
        parts = line.split("`")
        parts[::2] = [part.replace("*", r"\*").replace("|", r"\|") for part in parts[::2]]
        lines.append("``".join(parts))


def setup(app):
    app.connect("source-read", linked_here)
    app.connect("autodoc-process-docstring", as_markdown, priority=100)  # before napoleon reads the sections
