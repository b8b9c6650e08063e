"""Sentences and voices for espeak-ng."""

from __future__ import annotations

from dataclasses import dataclass

from models.rendering.midi import Rng

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "The train to the coast leaves from platform four.",
        "Could you close the window before you go?",
        "She put the blue cup back on the shelf.",
        "There is fresh bread on the kitchen table.",
        "We walked along the river until it got dark.",
        "My brother has painted the garden gate green.",
        "Please bring a warm coat and good shoes.",
        "The library opens at nine on Saturdays.",
        "He forgot his umbrella at the office again.",
        "Turn left after the bridge and follow the road.",
        "The meeting was moved to Thursday afternoon.",
        "I would like a cup of tea with a little milk.",
        "Twenty three, forty seven, one hundred and six.",
        "Seven, two, nine, nine, zero, four, one, eight.",
        "Nobody knew where the old map had come from.",
        "It will be cloudy with some sun in the evening.",
        "The children are building a tower of boxes.",
        "What time does the shop on the corner close?",
        "Yes, of course, that is a very good idea.",
        "Have you seen my keys? They were here this morning.",
    ),
    "de": (
        "Der Zug nach Hamburg hat heute zehn Minuten Verspätung.",
        "Kannst du bitte das Fenster öffnen?",
        "Wir haben gestern einen langen Spaziergang gemacht.",
        "Zweiundzwanzig, fünfzehn, dreihundertacht.",
        "Das Brot liegt auf dem Tisch in der Küche.",
    ),
    "fr": (
        "Le marché est ouvert tous les samedis matin.",
        "Nous avons rangé les livres dans la grande armoire.",
        "Est-ce que tu peux fermer la porte, s'il te plaît ?",
        "Dix-sept, quarante-deux, cent trois.",
        "Il fait assez froid pour la saison.",
    ),
    "es": (
        "La tienda de la esquina cierra a las ocho.",
        "Ayer caminamos por la playa hasta la noche.",
        "¿Puedes traer un vaso de agua, por favor?",
        "Veinticinco, catorce, doscientos nueve.",
        "Mi hermana vive cerca de la estación.",
    ),
    "it": (
        "Il treno per Milano parte fra dieci minuti.",
        "Abbiamo comprato il pane e un po' di frutta.",
        "Dove hai messo le chiavi della macchina?",
        "Trentuno, diciotto, quattrocentosei.",
        "Domani mattina andiamo al lago.",
    ),
    "pl": (
        "Pociąg do Krakowa odjeżdża z peronu trzeciego.",
        "Czy możesz zamknąć okno w kuchni?",
        "Wczoraj padał deszcz przez cały dzień.",
        "Dwadzieścia pięć, czternaście, sto siedem.",
        "Moja siostra mieszka blisko parku.",
    ),
    "nl": (
        "De winkel op de hoek is vandaag gesloten.",
        "Wil je het raam even openzetten?",
        "We hebben een lange wandeling langs het water gemaakt.",
        "Achttien, tweeënveertig, honderd en zes.",
        "Het brood ligt op de tafel in de keuken.",
    ),
    "pt": (
        "O autocarro para o centro chega às nove horas.",
        "Podes fechar a porta, por favor?",
        "Ontem passeámos junto ao rio até ao anoitecer.",
        "Vinte e três, quarenta e sete, cento e seis.",
        "A minha irmã mora perto da estação.",
    ),
}
_ENGLISH = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4")
_SENTENCES_A_CLIP = 6
"""Enough for six seconds of the fastest voice."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text with its voice; ``pitch`` is espeak-ng's, 0 to 99."""

    text: str
    voice: str
    words_per_minute: int
    pitch: int
    length_s: float


def compose_utterance(rng: Rng) -> Utterance:
    """Draw a voice and some sentences of its language; three in five are English."""
    language = "en" if rng.random() < 0.6 else str(rng.choice([k for k in SENTENCES if k != "en"]))
    accent = str(rng.choice(_ENGLISH)) if language == "en" else language
    order = rng.permutation(len(SENTENCES[language]))[:_SENTENCES_A_CLIP]
    return Utterance(
        text=" ".join(SENTENCES[language][i] for i in order),
        voice=f"{accent}+{rng.choice(_VARIANTS)}",
        words_per_minute=int(rng.integers(110, 221)),
        pitch=int(rng.integers(20, 81)),
        length_s=rng.uniform(4, 6),
    )
