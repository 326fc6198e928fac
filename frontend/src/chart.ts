// Comes in: times and changes per second. Goes out: a drawn chart, and which place the reader points at.
// The only file that knows uPlot.
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

import { countText } from './format';
import type { ChartData } from './picture';
import { readTheme, type Theme, watchTheme } from './theme';

/** Line dashes of INSERT, UPDATE, DELETE: told apart without colour, too. The legend draws the same. */
export const DASHES = [[], [6, 3], [2, 3]] as const;
const FONT = '12px system-ui, sans-serif';
const LOWEST_TOP = 5;
/** Lines at whole numbers only: there is no half change. */
const Y_STEPS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((power) => [power, 2 * power, 5 * power]);

export class Chart {
  readonly #plot: uPlot;
  readonly #stops: (() => void)[];
  #theme: Theme = readTheme();

  /** Fills `host`, whatever size that has or gets. `onPoint`: the place in the data, null when nowhere. */
  constructor(host: HTMLElement, data: ChartData, onPoint: (place: number | null) => void) {
    this.#plot = new uPlot(this.#options(host, onPoint), plotted(data), host);
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

  draw(data: ChartData): void {
    this.#plot.setData(plotted(data));
  }

  destroy(): void {
    for (const stop of this.#stops) stop();
    this.#plot.destroy();
  }

  #options(host: HTMLElement, onPoint: (place: number | null) => void): uPlot.Options {
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
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        // From the first time to the last, without the padding that would make the lines jump each second.
        x: { range: (_, min, max) => [min, max] },
        y: { range: (_, __, max) => [0, Math.max(LOWEST_TOP, (max ?? 0) * 1.15)] },
      },
      axes: [
        { ...axis, space: 70, size: 28, values: '{HH}:{mm}:{ss}' },
        { ...axis, size: 52, incrs: Y_STEPS, values: (_, splits) => splits.map((split) => countText(split)) },
      ],
      series: [
        {},
        this.#line(0, (theme) => theme.insert),
        this.#line(1, (theme) => theme.update),
        this.#line(2, (theme) => theme.delete),
      ],
      hooks: {
        drawAxes: [(plot) => this.#hatchUnknown(plot)],
        setCursor: [(plot) => onPoint(plot.cursor.idx ?? null)],
      },
    };
  }

  #line(place: 0 | 1 | 2, colour: (theme: Theme) => string): uPlot.Series {
    return {
      stroke: () => colour(this.#theme),
      width: 1.75,
      dash: [...DASHES[place]],
      points: {
        show: false,
        size: 4,
        fill: () => colour(this.#theme),
        filter: (plot, series) => lonePlaces(plot.data[series] ?? []),
      },
    };
  }

  /** Where nobody counted there is no line, and the ground says so. */
  #hatchUnknown(plot: uPlot): void {
    const { ctx, bbox } = plot;
    const xs = plot.data[0];
    ctx.save();
    ctx.strokeStyle = this.#theme.hatch;
    ctx.lineWidth = uPlot.pxRatio;
    for (const [first, last] of unknownRuns(plot.data[1] ?? [])) {
      // From the last known point to the next one: the line ends and begins there.
      const left = plot.valToPos(xs[Math.max(0, first - 1)] ?? 0, 'x', true);
      const right = plot.valToPos(xs[Math.min(xs.length - 1, last + 1)] ?? 0, 'x', true);
      hatch(ctx, left, bbox.top, right - left, bbox.height);
    }
    ctx.restore();
  }
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
