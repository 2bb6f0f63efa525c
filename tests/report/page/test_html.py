"""pipeline.report.page.html: scripts that need no network, and the page that DVC fills with its plots."""

import re

from dvc_render.html import HTML

from pipeline.report.page.html import dvc_template, javascript


def test_the_script_holds_vega_and_ends_no_element_that_it_stands_in() -> None:
    script = javascript()
    assert "vegaEmbed" in script
    assert "</script" not in script.lower()


def test_dvcs_plots_are_filled_in_without_its_scripts() -> None:
    page = HTML(dvc_template()).with_scripts('<script src="https://cdn"></script>').with_element("<b>plot</b>").embed()
    assert "<b>plot</b>" in page
    assert "https://cdn" not in page
    assert not re.search(r"{(scripts|plot_divs|refresh_tag)}", page)
