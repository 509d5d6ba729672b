"""Patients and their tissue: what differs between patients, and the recipes of the fields and of the slide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.data.synthetic.layout import Recipe, lay_out
from segkit.data.synthetic.noise import FloatMap, NoisePlane
from segkit.data.synthetic.optics import Scanner, draw_scanner, expose, halo_px
from segkit.data.synthetic.placement import Cytology, populate
from segkit.data.synthetic.tissue import NOISE_SIGMAS, Staining, Tissue
from segkit.geometry import Box

MPP = 0.5

FIELD_RECIPES = (
    Recipe(epithelium=0.45, wall_px=44, mucin=0.5, vessels=20),
    Recipe(epithelium=0.5, wall_px=200, nest_px=34, lymphoid=0.08),
    Recipe(epithelium=0.3, wall_px=200, nest_px=24, lymphoid=0.1, crush=0.6, loose=0.5, vessels=30, bleeding=0.03),
    Recipe(epithelium=0.42, wall_px=40, nest_px=48, mucin=0.8, lymphoid=0.1, fat=0.12, vessels=20),
    Recipe(epithelium=0.6, wall_px=85, nest_px=55, necrosis=True, lymphoid=0.05),
    Recipe(epithelium=0.35, wall_px=200, nest_px=30, lymphoid=0.15, outline="edge", loose=0.5, vessels=30),
)
SLIDE_RECIPE = Recipe(
    epithelium=0.34,
    wall_px=46,
    nest_px=46,
    region_px=330,
    lymphoid=0.04,
    fat=0.1,
    mucin=0.4,
    vessels=12,
    loose=0.4,
    outline="section",
)


@dataclass(frozen=True, slots=True)
class Patient:
    """How one patient's cells, stains and slide look."""

    cytology: Cytology
    staining: Staining
    scanner: Scanner


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient."""
    cytology = Cytology(
        radius_px=rng.uniform(8.5, 10.5),
        variation=rng.uniform(0.1, 0.2),
        crowding=rng.uniform(1.1, 1.32),
        tumour_density=rng.uniform(0.32, 0.54),
        dark_density=rng.uniform(0.7, 1.0),
        vesicular=rng.uniform(0.2, 0.9),
        figures=60,
    )
    staining = Staining(
        collagen=rng.uniform(0.26, 0.42),
        stroma_haematoxylin=rng.uniform(0.02, 0.07),
        cytoplasm_eosin=rng.uniform(0.16, 0.3),
        cytoplasm_haematoxylin=cytology.tumour_density * rng.uniform(0.36, 0.66),
    )
    return Patient(cytology, staining, draw_scanner(rng))


def grow(rng: np.random.Generator, patient: Patient, recipe: Recipe, height: int, width: int) -> Tissue:
    """Grow a piece of a patient's tissue of `height` x `width` pixels."""
    layout = lay_out(rng, recipe, height, width)
    population = populate(rng, layout, patient.cytology)
    return Tissue(layout, population, patient.staining, NoisePlane(rng, NOISE_SIGMAS))


def photograph(
    rng: np.random.Generator, patient: Patient, tissue: Tissue, box: Box, light: FloatMap | None = None
) -> NDArray[np.uint8]:
    """Photograph `box` of a tissue, (H, W, 3); `light` is the illumination over the box with its halo."""
    wide = box.expand(halo_px())
    if light is None:
        light = np.ones((wide.height, wide.width), np.float32)
    focus = tissue.layout.grid.read(tissue.layout.focus, wide)
    return expose(rng, patient.scanner, tissue.concentrations(wide), focus, light)
