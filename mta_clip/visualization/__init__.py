"""Pictures of label maps: colours, overlays, legends, panels, label PNGs."""

from .heatmap import draw_heatmap
from .label_png import save_label_map
from .legend import LegendEntry, draw_legend, legend_entries
from .overlay import draw_overlay
from .palette import class_colors, distinct_colors
from .panel import Panel, compose_panels, prediction_panel

__all__ = [
    "LegendEntry",
    "Panel",
    "class_colors",
    "compose_panels",
    "distinct_colors",
    "draw_heatmap",
    "draw_legend",
    "draw_overlay",
    "legend_entries",
    "prediction_panel",
    "save_label_map",
]
