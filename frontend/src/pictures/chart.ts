// Comes in: times and values. Goes out: a drawn chart, which place the reader points at, and which span is dragged over.
// The only file that knows uPlot.
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

import type { Span } from '../model/filter';
import type { Zone } from '../values/format';
import { readTheme, type Theme, watchTheme } from './theme';

const FONT = '12px system-ui, sans-serif';
/** Charts of one page share the crosshair. */
const SYNC = uPlot.sync('time');
/** A turn of a mouse's wheel is some 100 pixels, and makes half as much of what is shown. */
const WHEEL_PIXELS = 100 / Math.log(1.5);
/** It turns many times a second; each zoom is written into the page's address, which a browser lets pages do less often. */
const WHEEL_MS = 100;
const LEAST_SECONDS = 5;
const MOST_SECONDS = 86_400;

/** Times in epoch seconds, then the values of each line; null where nothing is known. */
export type ChartData = readonly (readonly (number | null)[])[];

export interface Line {
  readonly colour: keyof Theme;
  readonly dash: readonly number[];
}

export interface ChartOptions {
  readonly lines: readonly Line[];
  /** What the axis goes up to at least. */
  readonly lowestTop: number;
  /** Distances between the axis's lines. */
  readonly increments: number[];
  readonly axisText: (value: number) => string;
  readonly zone: () => Zone;
  /** The place in the data, null when nowhere. */
  readonly onPoint: (place: number | null) => void;
  /** Null: back to now. */
  readonly onZoom: (span: Span | null) => void;
}

export class Chart {
  readonly #plot: uPlot;
  readonly #options: ChartOptions;
  readonly #stops: (() => void)[];
  #theme: Theme = readTheme();
  #thresholds: readonly number[] = [];
  #known: ChartData[number] = [];
  #turned: { left: number; pixels: number } | null = null;

  /** Fills `host`, whatever size that has or gets. */
  constructor(host: HTMLElement, options: ChartOptions) {
    this.#options = options;
    const empty: ChartData = [[], ...options.lines.map(() => [])];
    this.#plot = new uPlot(this.#uplotOptions(host), plotted(empty), host);
    this.#plot.over.addEventListener('wheel', (event) => this.#onWheel(event), { passive: false });
    const resizes = new ResizeObserver(() => this.#plot.setSize(sizeOf(host)));
    resizes.observe(host);
    this.#stops = [
      () => resizes.disconnect(),
      watchTheme(() => {
        this.#theme = readTheme();
        this.#plot.redraw(false);
      }),
    ];
  }

  /** `known`: null at times that are hatched; `shown`: which lines; `thresholds`: values at which a line goes across. */
  draw(
    data: ChartData,
    known: ChartData[number],
    shown: readonly boolean[] = [],
    thresholds: readonly number[] = [],
  ): void {
    this.#known = known;
    this.#thresholds = thresholds;
    for (const [place, isShown] of shown.entries()) {
      if (this.#plot.series[place + 1]?.show !== isShown) this.#plot.setSeries(place + 1, { show: isShown });
    }
    this.#plot.setData(plotted(data));
  }

  destroy(): void {
    for (const stop of this.#stops) stop();
    this.#plot.destroy();
  }

  #uplotOptions(host: HTMLElement): uPlot.Options {
    const { lines, lowestTop, increments, axisText, zone, onPoint, onZoom } = this.#options;
    const axis: uPlot.Axis = {
      stroke: () => this.#theme.muted,
      font: FONT,
      grid: { stroke: () => this.#theme.grid, width: 1 },
      ticks: { show: false },
    };
    return {
      ...sizeOf(host),
      padding: [10, 28, 0, 0],
      legend: { show: false },
      tzDate: (seconds) =>
        zone() === 'utc' ? uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC') : new Date(seconds * 1000),
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        sync: { key: SYNC.key },
        points: { size: 7 },
        bind: {
          dblclick: () => () => {
            onZoom(null);
            return null;
          },
        },
      },
      scales: {
        // From the first time to the last, without the padding that would make the lines jump each second.
        x: { range: (_, min, max) => [min, max] },
        y: { range: (_, __, max) => [0, Math.max(lowestTop, ...this.#thresholds, (max ?? 0) * 1.15)] },
      },
      axes: [
        { ...axis, space: 70, size: timesHeight, values: TIMES },
        { ...axis, size: 56, space: valuesSpace, incrs: increments, values: (_, splits) => splits.map(axisText) },
      ],
      series: [{}, ...lines.map((line) => this.#series(line))],
      hooks: {
        drawAxes: [(plot) => this.#hatchUnknown(plot)],
        draw: [(plot) => this.#drawThresholds(plot)],
        setCursor: [(plot) => onPoint(plot.cursor.idx ?? null)],
        setSelect: [(plot) => this.#zoom(plot)],
      },
    };
  }

  #series({ colour, dash }: Line): uPlot.Series {
    return {
      stroke: () => this.#theme[colour],
      width: 1.75,
      dash: [...dash],
      spanGaps: false,
      points: {
        show: false,
        size: 4,
        fill: () => this.#theme[colour],
        filter: (plot, series) => lonePlaces(plot.data[series] ?? []),
      },
    };
  }

  #zoom(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width === 0) return;
    const [from, to] = [plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x')].map(Math.round) as [number, number];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (from < to) this.#options.onZoom({ from, to });
  }

  /** With Ctrl, as two fingers on a touchpad send it too; without, the page scrolls. */
  #onWheel(event: WheelEvent): void {
    if (!event.ctrlKey) return;
    event.preventDefault();
    if (this.#turned === null) setTimeout(() => this.#zoomByWheel(), WHEEL_MS);
    const left = event.clientX - this.#plot.over.getBoundingClientRect().left;
    this.#turned = { left, pixels: (this.#turned?.pixels ?? 0) + event.deltaY };
  }

  #zoomByWheel(): void {
    const { min, max } = this.#plot.scales['x']!;
    if (this.#turned !== null && min != null && max != null) {
      const factor = Math.exp(this.#turned.pixels / WHEEL_PIXELS);
      const at = this.#plot.posToVal(this.#turned.left, 'x');
      this.#options.onZoom(zoomedAround({ from: min, to: max }, at, factor, Date.now() / 1000));
    }
    this.#turned = null;
  }

  /** Unknown differs from zero: times that were not counted, or measured, have no line, and a hatched ground. */
  #hatchUnknown(plot: uPlot): void {
    const { ctx, bbox } = plot;
    const xs = plot.data[0];
    ctx.save();
    ctx.strokeStyle = this.#theme.hatch;
    ctx.lineWidth = uPlot.pxRatio;
    for (const [first, last] of unknownRuns(this.#known)) {
      // From the last known point to the next one: the line ends and begins there.
      const left = plot.valToPos(xs[Math.max(0, first - 1)] ?? 0, 'x', true);
      const right = plot.valToPos(xs[Math.min(xs.length - 1, last + 1)] ?? 0, 'x', true);
      hatch(ctx, left, bbox.top, right - left, bbox.height);
    }
    ctx.restore();
  }

  #drawThresholds(plot: uPlot): void {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = this.#theme.bad;
    ctx.lineWidth = uPlot.pxRatio;
    ctx.setLineDash([8 * uPlot.pxRatio, 4 * uPlot.pxRatio]);
    for (const threshold of this.#thresholds) {
      const y = Math.round(plot.valToPos(threshold, 'y', true));
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    ctx.restore();
  }
}

/** From what distance between two lines on, in seconds: what to write; and the date, where it is another day. */
const TIMES: uPlot.Axis.Values = [
  [86_400, '{YYYY}-{MM}-{DD}', null, null, null, null, null, null, 1],
  [60, '{HH}:{mm}', '\n{MM}-{DD}', null, null, null, null, null, 1],
  [1, '{HH}:{mm}:{ss}', null, null, null, null, null, null, 1],
];

/** `factor` times as much time, with `at` where it was; never more of the time after `now` than is shown already. */
export function zoomedAround({ from, to }: Span, at: number, factor: number, now: number): Span {
  const seconds = Math.max(LEAST_SECONDS, Math.min(MOST_SECONDS, (to - from) * factor));
  const end = Math.min(at + (seconds * (to - at)) / (to - from), Math.max(to, now));
  return { from: Math.round(end - seconds), to: Math.round(end) };
}

/** With room for the date where there is one. */
export function timesHeight(_: unknown, texts: readonly (string | null)[] | null): number {
  return texts?.some((text) => text?.includes('\n')) ? 42 : 28;
}

/** The least distance of two axis values, in pixels: a low chart has several, and a high one not too many. */
function valuesSpace(_: uPlot, __: number, ___: number, ____: number, height: number): number {
  return Math.max(18, Math.min(40, height / 5));
}

/** First and last places of each run of nulls. */
export function unknownRuns(values: ArrayLike<number | null | undefined>): [first: number, last: number][] {
  const runs: [number, number][] = [];
  for (let place = 0; place < values.length; place++) {
    if (values[place] !== null) continue;
    const run = runs.at(-1);
    if (run !== undefined && run[1] === place - 1) run[1] = place;
    else runs.push([place, place]);
  }
  return runs;
}

/** Known values without a known neighbour: there a line would be nothing, so a point is drawn. */
export function lonePlaces(values: ArrayLike<number | null | undefined>): number[] {
  const isKnown = (place: number) => typeof values[place] === 'number';
  return Array.from(values, (_, place) => place).filter(
    (place) => isKnown(place) && !isKnown(place - 1) && !isKnown(place + 1),
  );
}

function hatch(ctx: CanvasRenderingContext2D, left: number, top: number, width: number, height: number): void {
  const spacing = 8 * uPlot.pxRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ctx.beginPath();
  // Drawn from the canvas's edge on, so that the hatching lies still while the span moves over it.
  for (let x = Math.floor((left - height) / spacing) * spacing; x < left + width; x += spacing) {
    ctx.moveTo(x, top + height);
    ctx.lineTo(x + height, top);
  }
  ctx.stroke();
  ctx.restore();
}

function plotted(data: ChartData): uPlot.AlignedData {
  return [...data] as uPlot.AlignedData;
}

function sizeOf(host: HTMLElement): { width: number; height: number } {
  return { width: host.clientWidth, height: host.clientHeight };
}
